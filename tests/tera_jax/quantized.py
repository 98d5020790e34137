"""A small Llama with weights that are all random, and adapters on it when it is quantised."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax import adapt, quantize
from tera_jax.llama import Llama, LlamaConfig
from tera_jax.methods import TABLE
from tests import initial, parts

BLOCK = 8
IN_BLOCKS = ("int8", "int4", "nf4")
"""The kinds whose inputs share scales in blocks."""
CONFIG = LlamaConfig.from_hf(parts.SMALL)
SETTINGS = {
    "tera": {"num_modes": 2},
    "lora": {"rank": 4},
    "dora": {"rank": 4},
    "pissa": {"rank": 4},
    "toplora": {"rank": 4, "dropout": 0.0},
    "prompt": {"num_virtual_tokens": 4},
}


def block(kind, size=BLOCK):
    """What a function that takes a kind and a block gets for the latter."""
    return size if kind in IN_BLOCKS else quantize.BLOCK


@functools.cache
def base(dtype=jnp.float32):
    """A Llama with weights that are all random, norms and biases too."""
    model = Llama(CONFIG, dtype=dtype)
    random = np.random.default_rng(0)
    params = initial.params(model, jnp.zeros((1, 2), jnp.int32))
    params = jax.tree.map(
        lambda p: p + jnp.asarray(0.1 * random.standard_normal(p.shape), p.dtype), params
    )
    return model, params


@functools.cache
def made(name, kind="nf4", dtype=jnp.float32):
    """The model, an adapter, perturbed variables on a quantised base, and tokens."""
    model, params = base(dtype)
    params = quantize.quantize(params, kind, block(kind))
    config = TABLE[name](**SETTINGS[name])
    adapter = adapt(
        model,
        jnp.ones((1, 2), jnp.int32),
        method=name,
        config=config,
        targets=("q_proj", "v_proj", "down_proj"),
    )
    variables, tokens_BL = parts.perturbed(adapter, params, np.random.default_rng(1))
    return adapter, model, variables, tokens_BL


def leaves(tree):
    return jax.tree.leaves(tree, is_leaf=quantize.is_quantized)


def assert_close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-6 * np.abs(b).max())


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert jnp.array_equal(a, b)
