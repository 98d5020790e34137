"""A training step with kernels on a mesh: that of one device, and the collectives of the base."""

import functools
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.cases import Case, make_adapter
from benchmarks.steps import random_batch
from tera_jax import adapt, sharding
from tera_jax.llama import Llama, LlamaConfig
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.methods import TABLE
from tera_jax.network import cost_model
from tera_jax.ops import dispatch
from tests.margins import within
from tests.marks import quick_only
from train.training.steps import loss
from train.training.steps import step as steps

MESHES = {
    "data=2": (2, 1, 1),
    "fsdp=2": (1, 2, 1),
    "tensor=2": (1, 1, 2),
    "data=2,fsdp=2": (2, 2, 1),
    "fsdp=2,tensor=2": (1, 2, 2),
}
TARGETS = ("q_proj", "v_proj", "o_proj", "down_proj")
WITH_METHODS = [
    *(("structured", mesh) for mesh in MESHES),
    *(("dense", mesh) for mesh in ("data=2", "fsdp=2,tensor=2")),
]
"""Every mesh with the kernels of a structured network; a dense one on the least and the most."""
WIDTH = 1024
SCHEME = {"tensorizations": (f"{WIDTH}|4x8x4x8",)}
METHODS = {"dense": SCHEME, "structured": SCHEME | {"structure": "hadamard"}}
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
ROWS, LENGTH = 4, 32
"""A device has 32 tokens or more."""


def model(width, layers):
    sizes = {
        "model_type": "llama",
        "vocab_size": 64,
        "hidden_size": width,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    return Llama(LlamaConfig.from_hf(sizes), remat="dots", unroll=True)


@functools.cache
def drawn(method):
    """The adapter and, on the host, what it is drawn with and some d."""
    llama, tokens = model(WIDTH, 2), jnp.zeros((1, 4), jnp.int32)
    config = TABLE["tera"](**METHODS[method])
    adapter = adapt(llama, tokens, method="tera", config=config, targets=TARGETS)
    params = jax.jit(llama.init)(jax.random.key(0), tokens)["params"]
    frozen = jax.jit(adapter.init_frozen)(params)
    d = jax.jit(adapter.init_d)(params, frozen)
    random = np.random.default_rng(0)
    d = jax.tree.map(lambda leaf: leaf + 0.1 * random.standard_normal(leaf.shape, "float32"), d)
    return llama, adapter, *jax.device_get((params, frozen, d))


def found(method, sizes, kernels, changed=False):
    """The loss and the gradient of d, and the text of the traced program."""
    llama, adapter, params, frozen, d = drawn(method)
    mesh = sharding.make_mesh(*sizes)
    everywhere = sharding.replicated(mesh)
    params = jax.device_put(params, parameter_shardings(params, mesh))
    frozen, d = jax.device_put((frozen, d), everywhere)
    if changed:
        d = jax.tree.map(lambda leaf: 1.1 * leaf, d)
    batch = jax.device_put(random_batch(ROWS, LENGTH, 64), sharding.rows(mesh))

    def nll(d, params, frozen, batch):
        return loss.loss_sum(llama, adapter, {"params": params, "frozen": frozen, "d": d}, batch)[0]

    with jax.set_mesh(mesh), dispatch.forced(kernels):
        traced = jax.jit(jax.value_and_grad(nll)).trace(d, params, frozen, batch)
        return traced.lower().compile()(d, params, frozen, batch), str(traced.jaxpr)


@functools.cache
def on_one_device(method):
    return jax.device_get(found(method, (), False)[0])


def gradients(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


@pytest.mark.long
@pytest.mark.parametrize(("method", "mesh"), WITH_METHODS)
def test_the_loss_and_the_gradients_of_d_are_those_of_one_device(method, mesh, monkeypatch):
    monkeypatch.setattr(cost_model, "route", lambda *_: "project")
    expected = on_one_device(method)
    (value, grads), text = found(method, MESHES[mesh], True)
    assert "shard_map[" in text
    assert "pallas_call[" in text
    within(abs(value / expected[0] - 1), 3e-6)
    right = gradients(expected[1])
    within(np.linalg.norm(gradients(grads) - right), 3e-5 * np.linalg.norm(right))
    if method == "structured" and mesh == "data=2":
        (_, others), _ = found(method, MESHES[mesh], True, changed=True)
        assert np.linalg.norm(gradients(others) - right) > 1e-2 * np.linalg.norm(right)


def collectives(method, sizes, kernels):
    """(operation, entries) of each array that the compiled step sends -> how many."""
    width = 256 if sizes[2] == 1 else WIDTH
    llama, mesh = model(width, 1), sharding.make_mesh(*sizes)
    scheme = f"{width}|4x4x4x4" if width == 256 else f"{width}|4x8x4x8"
    fields = [("tensorizations", (scheme,)), ("structure", "hadamard")]
    case = Case(method, ROWS, LENGTH, fields=tuple(fields) if method == "tera" else ())
    adapter, optimizer = make_adapter(case, llama), optax.sgd(1e-3)
    shapes = jax.eval_shape(llama.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    frozen = jax.eval_shape(adapter.init_frozen, shapes)
    state = jax.eval_shape(
        lambda *a: steps.init_state(adapter.init_d(*a), optimizer), shapes, frozen
    )
    with jax.set_mesh(mesh), dispatch.forced(kernels):
        step = steps.make_train_step(llama, adapter, optimizer, mesh, shapes, state)
        text = step.lower(state, shapes, frozen, random_batch(ROWS, LENGTH, 64)).compile().as_text()
    pattern = (
        r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
    )
    sent: Counter[tuple[str, int]] = Counter()
    for arrays, operation in re.findall(pattern, text):
        for shape in re.findall(r"\w\[([\d,]+)\]", arrays):
            sent[operation, int(np.prod(list(map(int, shape.split(",")))))] += 1
    return sent, width * width


@pytest.mark.parametrize("mesh", quick_only(["fsdp=2"], MESHES))
def test_no_array_of_a_kernels_size_is_sent_that_the_base_does_not_send(mesh, monkeypatch):
    monkeypatch.setattr(cost_model, "route", lambda *_: "project")
    sizes = MESHES[mesh]
    (base, entries), (structured, _) = (
        collectives(method, sizes, True) for method in ("frozen", "tera")
    )
    parts = sizes[1] * sizes[2]
    large = {sent: n for sent, n in (structured - base).items() if sent[1] >= entries // parts}
    assert not large
    assert all(entry < entries // parts for kind, entry in structured if kind == "all-reduce")
    assert any(kind == "all-reduce" for kind, _ in structured)


@pytest.mark.long
def test_a_gradient_that_is_summed_as_a_kernel_is_seen(monkeypatch):
    """By a step that makes W + dW and differentiates it as it stands."""
    monkeypatch.setattr(cost_model, "route", lambda *_: "build")
    sent, entries = collectives("tera", MESHES["data=2"], False)
    assert sent["all-reduce", entries] == 2
