"""Hidden states at some positions of a row alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.marks import quick_only

LENGTHS_BM = np.array([[7, 9, 8], [20, 3, 0]], np.int32)
TARGET_POSITIONS_BT = np.array([[3, 9, 10, 23, 0, 0], [0, 5, 19, 21, 22, 23]], np.int32)


@pytest.mark.parametrize(
    "tiny", quick_only(["qwen3"], ["llama-3", "mistral", "qwen3"]), indirect=True
)
@pytest.mark.parametrize("remat", quick_only(["dots"], ["none", "full", "dots"]))
@pytest.mark.parametrize("lengths_BM", [None, LENGTHS_BM], ids=["padded", "packed"])
def test_states_at_some_positions_are_those_of_all(tiny, tokens_BL, lengths_BM, remat):
    _, model, params = tiny
    lengths_BM = None if lengths_BM is None else jnp.asarray(lengths_BM)
    target_positions_BT, tokens_BL = jnp.asarray(TARGET_POSITIONS_BT), jnp.asarray(tokens_BL)

    def at_positions(params, unroll):
        states_BTD, cache = model.clone(unroll=unroll, remat=remat).apply(
            {"params": params},
            tokens_BL,
            lengths_BM=lengths_BM,
            target_positions_BT=target_positions_BT,
            method="hidden",
        )
        assert cache is None
        return states_BTD

    def picked(params):
        hidden_BLD, _ = model.apply(
            {"params": params}, tokens_BL, lengths_BM=lengths_BM, method="hidden"
        )
        return jnp.take_along_axis(hidden_BLD, target_positions_BT[:, :, None], axis=1)

    weight = jax.random.normal(
        jax.random.key(0), (*TARGET_POSITIONS_BT.shape, model.config.hidden_size)
    )

    def value_and_grad(states):
        return jax.jit(jax.value_and_grad(lambda params: jnp.sum(weight * states(params))))(params)

    expected = value_and_grad(picked)
    for unroll in (False, True):
        found = value_and_grad(partial(at_positions, unroll=unroll))
        for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(b).max())
    # The positions are read, and the bounds of segments are seen.
    others = jax.jit(picked)(params)[:, ::-1]
    assert abs(jnp.sum(weight * others) / expected[0] - 1) > 1e-2


@pytest.mark.parametrize("tiny", ["qwen3"], indirect=True)
@pytest.mark.parametrize(("targets", "fewer"), [(4, True), (12, True), (5, False), (14, False)])
def test_the_last_unrolled_layer_is_computed_at_the_positions_alone(
    tiny, tokens_BL, targets, fewer
):
    _, model, params = tiny
    target_positions_BT = jnp.asarray(
        np.broadcast_to(np.arange(targets, dtype=np.int32), (2, targets))
    )

    def rows_of_products(unroll):
        """How many products with an MLP's kernel there are for each number of tokens."""

        def hidden(params):
            unrolled = model.clone(unroll=unroll)
            return unrolled.apply(
                {"params": params},
                tokens_BL,
                target_positions_BT=target_positions_BT,
                method="hidden",
            )

        lowered = jax.jit(hidden).lower(params).as_text()
        width = model.config.intermediate_size
        return {n: lowered.count(f"-> tensor<2x{n}x{width}xf32>") for n in (targets, 24)}

    found = rows_of_products(unroll=True)
    assert (found[targets] > 0) == fewer
    assert found[24] > 0
    assert rows_of_products(unroll=False)[targets] == 0
