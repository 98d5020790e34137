import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.fingerprint import fingerprint
from tera_jax.network import core as cores
from tera_jax.random import seed_key
from tests.margins import within
from tests.tera_jax.network.networks import dense_core, far

SHAPES = [(64, 64), (72, 30), (30, 72), (128, 2), (225, 225)]
KEY = seed_key(0, "core")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fast_core_is_its_definition_written_out_and_multiplied_with(shape):
    core = cores.draw(KEY, *shape, 0.5, jnp.float32)
    assert cores.is_fast(core)
    exact = dense_core(core, shape)
    within(far(jax.jit(cores.formed)(core), exact), 1e-6)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, shape[0])), jnp.float32)
    within(far(cores.product(x, core), np.asarray(x, np.float64) @ exact), 1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_its_rows_or_columns_are_orthogonal_and_its_entries_of_the_asked_size(shape):
    exact = dense_core(cores.draw(KEY, *shape, 0.5, jnp.float32), shape)
    if shape[0] > shape[1]:
        exact = exact.T
    gram = exact @ exact.T
    within(np.abs(gram - np.diag(np.diag(gram))).max(), 1e-5)
    assert np.linalg.matrix_rank(exact) == min(shape)
    assert np.diag(gram) == pytest.approx(0.25 * max(shape), rel=1e-5)


def test_a_dense_core_is_itself_and_multiplied_with_unfolded():
    core = jnp.arange(24.0).reshape(2, 3, 4)
    assert not cores.is_fast(core)
    assert cores.formed(core) is core
    x = jnp.ones((5, 6))
    assert jnp.array_equal(cores.product(x, core), x @ core.reshape(6, 4))


def test_the_signs_come_from_the_key_and_differ():
    def drawn(key):
        return cores.draw(key, 96, 96, 1.0, jnp.float32)

    assert fingerprint(drawn(KEY)) == fingerprint(drawn(KEY))
    assert fingerprint(drawn(KEY)) != fingerprint(drawn(seed_key(1, "core")))
    before, after = drawn(KEY)
    assert not jnp.array_equal(jnp.sign(before), after)
    assert {*np.asarray(after).tolist()} == {-1.0, 1.0}


def test_a_size_without_transform_is_refused():
    with pytest.raises(ValueError, match="no fast transform of size 262"):
        cores.draw(KEY, 262, 8, 1.0, jnp.float32)
