"""The average of d against optax.ema and the weighted mean; patterns that name no array."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.margins import close, roundings
from train.config import OptimConfig
from train.training.optim import averaged, averages, optimizer, paths, require_patterns

SHAPES = {"layers": {"q_proj": {"tera": {"d_1": (3,), "d_2": (2, 2)}}, "v_proj": {"tera": (4,)}}}


def draw(seed, dtype=jnp.float32):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(random.standard_normal(shape), dtype),
        SHAPES,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def leaves_close(found, expected, atol):
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_the_average_is_that_of_optax_over_the_steps(decay):
    """Of optax the debiased one. Near 1 its 1 - decay loses digits, and the exact mean decides."""
    config = OptimConfig(0.1, 0, optimizer="sgd", ema_decay=decay)
    rule, theirs = optimizer(config, 30), optax.ema(decay, debias=True)
    d = draw(0)
    with jax.numpy_dtype_promotion("standard"):
        state, their_state = rule.init(d), theirs.init(d)
        assert jax.tree.all(jax.tree.map(np.array_equal, averaged(d, state), d))
        update, past = jax.jit(rule.update), []
        for step in range(1, 30):
            updates, state = update(draw(step), state, d)
            d = optax.apply_updates(d, updates)
            expected, their_state = theirs.update(d, their_state)
            past.append(d)
            found = averaged(d, state)
            weights = decay ** np.arange(step - 1.0, -1, -1)
            mean = jax.tree.map(
                lambda *each: np.tensordot(weights / weights.sum(), np.array(each, float), 1),  # noqa: B023
                *past,
            )
            leaves_close(found, mean, roundings(jnp.float32, 60))
            leaves_close(found, expected, 1e-5 if decay < 0.99 else 3e-3)
            if step == 1:
                assert jax.tree.all(jax.tree.map(np.array_equal, found, d))
    assert not np.allclose(found["layers"]["v_proj"]["tera"], d["layers"]["v_proj"]["tera"])


def test_the_average_of_a_small_type_is_in_float32():
    d = draw(0, jnp.bfloat16)
    state = optax.chain(averages(0.9)).init(d)
    assert {leaf.dtype for leaf in jax.tree.leaves(state[-1].average)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(averaged(d, state))} == {jnp.dtype("bfloat16")}


def test_without_an_average_d_itself_is_measured():
    d = draw(0)
    state = optimizer(OptimConfig(), 3).init(d)
    assert averaged(d, state) is d


NAMED = ["layers/q_proj/tera/d_1", "layers/q_proj/tera/d_2", "layers/v_proj/tera"]


def test_a_pattern_that_names_nothing_lists_the_paths():
    d = draw(0)
    assert paths(d) == NAMED
    require_patterns(OptimConfig(rate_factors=("q_proj=2", "tera=1")), d)
    require_patterns(OptimConfig(weight_decay=1.0, weight_decay_mask=("tera/d_*",)), d)
    listed = ", ".join(NAMED)
    for config, message in [
        (
            OptimConfig(rate_factors=("k_proj=2",)),
            "rate_factors has 'k_proj', which names no",
        ),
        (
            OptimConfig(rate_factors=("tera=2", "q_proj=1")),
            "rate_factors has 'q_proj', which names only arrays of earlier patterns",
        ),
        (
            OptimConfig(weight_decay=1.0, weight_decay_mask=("d_1/tera",)),
            "weight_decay_mask has 'd_1/tera', which names no",
        ),
    ]:
        with pytest.raises(ValueError, match=f"{message}.*{listed}"):
            require_patterns(config, d)
