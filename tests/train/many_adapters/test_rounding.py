"""What is left between one run of many adapters and separate runs is rounding that grows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.llama import attention as attention_layer
from tests.margins import within
from tests.train.many_adapters import worlds
from train.many_adapters import specification
from train.training import run as runs


def attention(query_BTNH, key_BSKH, value_BSKH, mask=None, is_causal=False, **_):
    """In the type of its inputs; JAX's takes the softmax in float32."""
    (batch, length, heads, size), groups = query_BTNH.shape, key_BSKH.shape[2]
    query = query_BTNH.reshape(batch, length, groups, heads // groups, size)
    score = jnp.einsum("btkgh,bskh->bkgts", query, key_BSKH) / np.sqrt(size)
    seen = jnp.ones((1, 1, length, key_BSKH.shape[1]), bool)
    seen = jnp.tril(seen) if is_causal else seen
    seen = seen if mask is None else seen & mask
    weight = jax.nn.softmax(jnp.where(seen[:, :, None], score, -1e30), axis=-1)
    return jnp.einsum("bkgts,bskh->btkgh", weight, value_BSKH).reshape(query_BTNH.shape)


def widened(tree):
    def widen(leaf):
        return leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf

    return jax.tree.map(widen, tree)


@pytest.mark.long
def test_vera_at_far_too_high_a_rate_differs_by_rounding_alone(tiny_llama, tmp_path, monkeypatch):
    """At 0.3 float32 runs part, by more than 1e-4 of the distance moved; float64 runs do not."""
    file = worlds.write_people(tmp_path / "people", 2, learning_rate=0.3, steps=50)
    more = ("--config.optim.schedule=constant", "--config.optim.warmup_steps=0")
    given = ("--config.method.rank=8", *more)
    given = worlds.arguments(tiny_llama, file, tmp_path / "run", "vera", *given)
    found = specification.read(file, worlds.base(*given))
    run = runs.build(found[0].config)

    def apart(run):
        """The distance between both ways, of the distance moved, for each adapter."""
        pairs = zip(worlds.all_alone(run, found), worlds.together(run, found), strict=True)
        return [
            worlds.distance(last, d) / worlds.distance(first, last) for (first, last), d in pairs
        ]

    assert min(apart(run)) > 1e-4
    monkeypatch.setattr(attention_layer, "_attention", attention)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        model = run.model.clone(dtype=jnp.float64)
        params, frozen = widened(run.params), widened(run.frozen)
        adapter = runs.make_adapter(found[0].config, model)
        wide = run._replace(model=model, params=params, frozen=frozen, adapter=adapter)
        within(max(apart(wide)), 1e-8)
