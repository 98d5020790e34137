import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.adapters import factory
from tera_jax.adapters.targets import put
from tera_jax.methods import TargetLayer, quanta
from tera_jax.methods.quanta import QuanTA
from tera_jax.random import seed_key
from tests.margins import within
from tests.tera_jax.methods.one_layer import on_layer

CASES = [  # axes, (in, out)
    ((4, 3, 2), (24, 24)),
    ((4, 3, 2), (24, 8)),  # cropped
    ((4, 3, 2), (20, 12)),  # padded and cropped
    ((4, 3, 2), (11, 24)),  # padded
    ((3, 2, 2, 2), (20, 12)),
    ((5, 4), (20, 12)),
]
init_frozen = jax.jit(quanta.init_frozen, static_argnums=1)
KERNEL = jax.random.normal(jax.random.key(0), (20, 12))


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.abs(a - b).max() / np.abs(b).max()


def circuit(x, gates, axes, features):
    """One vector through one gate after the other, entry by entry."""
    state = np.zeros(axes)
    for index, value in zip(np.ndindex(*axes), x, strict=False):
        state[index] = value
    pairs = itertools.combinations(range(-1, -len(axes) - 1, -1), 2)
    for (one, two), gate in zip(pairs, gates, strict=True):
        after = np.zeros(axes)
        for index in np.ndindex(*axes):
            for in_two, in_one in np.ndindex(axes[two], axes[one]):
                source = list(index)
                source[two], source[one] = in_two, in_one
                weight = gate[in_two, in_one, index[two], index[one]]
                after[index] += weight * state[tuple(source)]
        state = after
    return state.reshape(-1)[:features]


@pytest.mark.parametrize(("axes", "shape"), CASES)
def test_output_and_merged_kernel_are_those_of_the_definition(axes, shape):
    method = on_layer(QuanTA(axes), (TargetLayer(("q",), shape),))
    random = np.random.default_rng(0)
    frozen = jax.jit(method.init_frozen)(seed_key(0), KERNEL)
    q0 = [np.asarray(gate, np.float64) for gate in frozen]
    theta = [gate + 0.3 * random.standard_normal(gate.shape) for gate in q0]
    x, kernel = random.standard_normal((3, 1, shape[0])), random.standard_normal(shape)

    def update(row):
        return circuit(row, theta, axes, shape[1]) - circuit(row, q0, axes, shape[1])

    expected = np.array([[update(row) for row in rows] for rows in x])
    with jax.enable_x64(True):
        d = [jnp.asarray(gate) for gate in theta]
        y = jax.jit(method.apply)(frozen, d, jnp.asarray(kernel), jnp.asarray(x), None)
        assert y.dtype == jnp.float64
        within(relative(y, x @ kernel + expected), 1e-13)
        assert relative(y, x @ kernel) > 0.1
        merged = jax.jit(method.merge)(frozen, d, jnp.asarray(kernel))
        within(
            relative(merged, kernel + np.array([update(row) for row in np.eye(len(kernel))])), 1e-13
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_at_step_0_the_base_is_left_exactly_as_it_is(dtype):
    method = on_layer(QuanTA((4, 3, 2)), (TargetLayer(("q",), (20, 12)),))
    kernel = KERNEL.astype(dtype)
    frozen = jax.jit(method.init_frozen)(seed_key(0), kernel)
    x = jax.random.normal(jax.random.key(1), (5, 20), dtype)
    assert jnp.array_equal(jax.jit(method.merge)(frozen, frozen, kernel), kernel)
    y = jax.jit(method.apply)(frozen, frozen, kernel, x, None)
    assert jnp.array_equal(y, x @ kernel)


def test_bfloat16_sees_small_changes_of_the_gates():
    """The change of a gate below bfloat16's resolution of the gate itself, to bfloat16's own."""
    method = on_layer(QuanTA((4, 3, 2)), (TargetLayer(("q",), (20, 12)),))
    frozen = jax.jit(method.init_frozen)(seed_key(0), KERNEL)
    d = jax.tree.map(lambda gate: gate + 1e-4, frozen)
    x = jax.random.normal(jax.random.key(1), (5, 20))
    base = jnp.zeros_like(KERNEL)
    apply = jax.jit(method.apply)
    exact = apply(frozen, d, base, x, None)
    rounded = apply(frozen, d, base, x.astype(jnp.bfloat16), None)
    error = relative(rounded, exact)
    assert error > 0
    within(error, 2e-2)


def test_d_is_a_copy_of_the_frozen_gates_in_memory_of_its_own():
    method = on_layer(QuanTA((4, 3, 2)), (TargetLayer(("q",), (20, 12)),))
    frozen = jax.jit(method.init_frozen)(seed_key(0), KERNEL)
    for init_d in (method.init_d, jax.jit(method.init_d)):
        d = init_d(seed_key(1), KERNEL, frozen)
        for ours, theirs in zip(d, frozen, strict=True):
            assert ours.dtype == jnp.float32
            assert jnp.array_equal(ours, theirs)
            assert ours.unsafe_buffer_pointer() != theirs.unsafe_buffer_pointer()


def test_gates_are_kaiming_uniform():
    config = QuanTA()
    assert config.pairs == ((-1, -2), (-1, -3), (-1, -4), (-2, -3), (-2, -4), (-3, -4))
    gates = init_frozen(seed_key(0), config)
    sizes = [(8, 4), (8, 4), (16, 4), (8, 8), (16, 8), (16, 8)]
    assert [gate.shape for gate in gates] == [(two, one, two, one) for two, one in sizes]
    for gate in gates:
        bound = np.sqrt(3 / (gate.shape[0] * gate.shape[1]))
        assert 0.99 * bound < np.abs(gate).max() < bound
        error = np.sqrt(0.2 / gate.size)  # the standard one: the kurtosis is 9 / 5
        within(abs(np.std(gate) * np.sqrt(3) / bound - 1), 6 * error, of_draws=True)


def test_the_initial_circuit_preserves_the_mean_square():
    config = QuanTA((8, 8, 4))
    gates = init_frozen(seed_key(0), config)
    x = jax.random.normal(jax.random.key(1), (64, 256))
    zeros = [jnp.zeros_like(gate) for gate in gates]
    q0_x = jax.jit(quanta.update, static_argnums=(3, 4))(x, zeros, gates, 256, config)
    assert 0.7 < jnp.mean(q0_x**2) / jnp.mean(x**2) < 1.4


def test_layers_of_a_stack_start_apart_and_regenerate():
    site = TargetLayer(("layers", "q"), (20, 12), (2,))
    made = factory.make("quanta", QuanTA((4, 3, 2)), (site,))
    params = {"layers": {"q": {"kernel": jnp.zeros((2, 20, 12))}}}
    frozen = jax.jit(made.init_frozen)(params)
    d = jax.jit(made.init_d)(params, frozen)
    assert made.regenerates
    for gate, start in zip(jax.tree.leaves(frozen), jax.tree.leaves(d), strict=True):
        assert jnp.array_equal(gate, start)
        assert jnp.all(gate[0] != gate[1])


@pytest.mark.parametrize("v_shape", [(4096, 4096), (4096, 1024)])
def test_the_default_has_the_published_count(v_shape):
    sites = tuple(
        TargetLayer(("layers", "self_attn", name), shape, (32,))
        for name, shape in [("q_proj", (4096, 4096)), ("v_proj", v_shape)]
    )
    made = factory.make("quanta", QuanTA(), sites)
    params = {}
    for site in sites:
        shape = (*site.stack, *site.kernel_shape)
        put(params, (*site.path, "kernel"), jax.ShapeDtypeStruct(shape, jnp.bfloat16))
    frozen = jax.eval_shape(made.init_frozen, params)
    d = jax.eval_shape(made.init_d, params, frozen)
    assert sum(leaf.size for leaf in jax.tree.leaves(d)) == 2_752_512


@pytest.mark.parametrize("axes", [(), (4,), (4, 1)])
def test_bad_axes_are_refused(axes):
    with pytest.raises(ValueError, match="axes"):
        QuanTA(axes)


@pytest.mark.parametrize("shape", [(25, 12), (12, 25)])
def test_axes_that_hold_less_than_a_kernel_are_refused(shape):
    with pytest.raises(ValueError, match=r"24 features, but q has a kernel .* at least 25"):
        on_layer(QuanTA((4, 3, 2)), (TargetLayer(("q",), shape),))
