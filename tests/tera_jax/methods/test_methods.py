"""The claims that every method of the table must hold, on one layer."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from absl.testing import parameterized

from tera_jax.methods import TABLE, NotMergeableError, TargetLayer
from tera_jax.methods.base import LinearMethod
from tera_jax.random import seed_key
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.methods.one_layer import on_layer

SHAPES = {"mha": (32, 32), "gqa": (32, 8), "odd": (18, 12)}
FAST_SHAPES = {"mha": (96, 96), "gqa": (96, 8), "odd": (130, 12)}  # wide enough for a transform
SETTINGS = {
    "dora": {"rank": 4},
    "fourierft": {"num_frequencies": 3, "scaling": 60.0, "seed": 67},  # apart from each other
    "fourierft dense": {"num_frequencies": 90, "scaling": 30.0},
    "hira": {"rank": 4},
    "ia3": {},
    "ia3 feedforward": {"feedforward": ("layer",)},
    "lora": {"rank": 4, "alpha": 8.0},
    "loretta": {"rank": 4},
    "mora": {"rank": 2},
    "pissa": {"rank": 4},
    "quanta": {"axes": (4, 4, 2)},
    "randlora": {"rank": 5, "alpha": 5.0},
    "tera": {"num_modes": 2},
    "tera fast": {"num_modes": 2, "structure": "hadamard_factor"},
    "tera_iden": {"num_modes": 2},
    "tera_unique": {"num_modes": 2},
    "toplora": {"rank": 4},
    "unilora": {"rank": 4, "length": 50, "init_bound": 0.2},
    "unires": {"rank": 4, "init_bound": 0.2, "writers": ("layer",)},
    "vblora": {"rank": 2, "num_vectors": 9, "vector_length": 2, "bank_bound": 0.5},
    "vera": {"rank": 8},
}
# The published initial values already change the model.
NOT_IDENTITY = {"fourierft", "fourierft dense", "loretta", "unilora", "unires", "vblora"}
ROUNDED = {"pissa"}  # the base minus a frozen copy, plus the copy, is rounded on the way
NOT_MERGEABLE = {"toplora"}
KERNEL_METHODS = [name for name, row in TABLE.items() if issubclass(row, LinearMethod)]
KERNEL_METHODS += ["tera fast", "ia3 feedforward", "fourierft dense"]
LAYERS = list(itertools.product(KERNEL_METHODS, SHAPES))
QUICK_LAYERS = [(name, shape) for name, shape in LAYERS if shape == "gqa" or name == "tera"]
DTYPES = [jnp.float32, jnp.bfloat16]


def site_of(name, shape):
    return TargetLayer(("layer",), (FAST_SHAPES if name.endswith("fast") else SHAPES)[shape])


@functools.cache
def compiled(method, name):
    """A function of a method on one layer, traced once for all tests."""
    return jax.jit(getattr(method, name))


@functools.cache
def made(name, shape, dtype=jnp.float32):
    """The method, its arrays at step 0 and perturbed, a kernel and inputs."""
    entry = TABLE[name.split()[0]]
    site = site_of(name, shape)
    method = on_layer(entry(**SETTINGS[name]), (site,))
    random = np.random.default_rng(0)
    kernel = jnp.asarray(random.standard_normal(site.kernel_shape) / 6, dtype)
    x = jnp.asarray(random.standard_normal((3, 5, site.kernel_shape[0])), dtype)
    frozen = compiled(method, "init_frozen")(seed_key(0), kernel)
    d = jax.jit(method.init_d)(seed_key(1), kernel, frozen)
    moved = jax.tree.map(
        lambda v: v + jnp.asarray(0.3 * random.standard_normal(v.shape), v.dtype), d
    )
    return method, frozen, d, moved, kernel, x


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.abs(a - b).max() / np.abs(b).max()


def widened(tree):
    """In float64, but for indices."""
    return jax.tree.map(
        lambda v: v.astype(jnp.float64) if jnp.issubdtype(v.dtype, jnp.floating) else v, tree
    )


def product(x, kernel):
    return jnp.einsum("...i,io->...o", x, kernel)


@pytest.mark.parametrize("dtype", quick_only(DTYPES[:1], DTYPES))
@pytest.mark.parametrize(("name", "shape"), quick_only(QUICK_LAYERS, LAYERS, names=2))
def test_apply_is_the_product_with_the_merged_kernel(name, shape, dtype):
    method, frozen, _, moved, kernel, x = made(name, shape, dtype)
    y = compiled(method, "apply")(frozen, moved, kernel, x, None)
    assert y.dtype == dtype
    bound = 2e-5 if dtype == jnp.float32 else 3e-2
    assert relative(y, product(x, kernel)) > 2 * bound  # the perturbation is seen
    if name in NOT_MERGEABLE:
        with pytest.raises(NotMergeableError):
            method.merge(frozen, moved, kernel)
        return
    merged = compiled(method, "merge")(frozen, moved, kernel)
    assert (merged.dtype, merged.shape) == (kernel.dtype, kernel.shape)
    within(relative(y, product(x, merged)), bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "shape"), quick_only(QUICK_LAYERS, LAYERS, names=2))
def test_at_step_0_the_model_is_the_base(name, shape, dtype):
    method, frozen, d, _, kernel, x = made(name, shape, dtype)
    y = compiled(method, "apply")(frozen, d, kernel, x, None)
    change = relative(y, product(x, kernel))
    if name in NOT_IDENTITY:
        assert change > 1e-3
        return
    rounding = 1e-6 if dtype == jnp.float32 else 1e-2
    within(change, rounding)
    if name not in ROUNDED | NOT_MERGEABLE:
        within(relative(compiled(method, "merge")(frozen, d, kernel), kernel), rounding)


@pytest.mark.parametrize("name", KERNEL_METHODS)
def test_trainable_arrays_are_float32_and_each_changes_the_output(name):
    method, frozen, d, moved, kernel, x = made(name, "gqa")
    chex.assert_type(jax.tree.leaves(d), jnp.float32)
    chex.assert_tree_all_finite((frozen, d))
    apply = compiled(method, "apply")
    y = apply(frozen, moved, kernel, x, None)
    leaves, tree = jax.tree.flatten(moved)
    for i, leaf in enumerate(leaves):
        change = 0.3 * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape))  # not one for all logits
        other = jax.tree.unflatten(tree, [*leaves[:i], leaf + change, *leaves[i + 1 :]])
        assert not np.allclose(apply(frozen, other, kernel, x, None), y, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    quick_only(
        [case for case in QUICK_LAYERS if case[0] not in NOT_MERGEABLE],
        [case for case in LAYERS if case[0] not in NOT_MERGEABLE],
        names=2,
    ),
)
def test_the_rank_of_the_change_is_at_most_and_can_be_what_the_method_says(name, shape):
    method, frozen, d, moved, kernel, _ = made(name, shape)
    with jax.enable_x64(True):
        frozen, d, moved, kernel = widened((frozen, d, moved, kernel))
        merged = compiled(method, "merge")(frozen, moved, kernel)
        change = np.asarray(merged) - np.asarray(kernel)
    tolerance = 1e-9 * np.linalg.norm(change, 2)
    found = np.linalg.matrix_rank(change, tolerance)
    assert found == method.max_rank


@pytest.mark.parametrize("name", sorted(set(KERNEL_METHODS) - {"dora"}))
def test_gradients_equal_finite_differences_in_float64(name):
    """DoRA is left out: its gradient holds the norm constant, as published; see test_dora."""
    method, *arrays = made(name, "gqa")
    with jax.enable_x64(True):
        frozen, _, moved, kernel, x = widened(arrays)
        weight = jnp.asarray(np.random.default_rng(2).standard_normal((3, 5, 8)))

        @jax.jit
        def loss(d):
            return jnp.sum(weight * method.apply(frozen, d, kernel, x, None))

        jax.test_util.check_grads(loss, (moved,), order=1, modes=["rev"], rtol=1e-5)


@pytest.mark.parametrize("name", KERNEL_METHODS)
def test_frozen_arrays_regenerate_where_the_method_says_so(name):
    method, frozen, _, _, kernel, _ = made(name, "gqa")
    other = compiled(method, "init_frozen")(seed_key(0), 2 * kernel)
    chex.assert_trees_all_equal_shapes_and_dtypes(other, frozen)
    if method.regenerates:
        chex.assert_trees_all_equal(other, frozen)
    else:
        with pytest.raises(AssertionError, match="differ"):
            chex.assert_trees_all_equal(other, frozen)


class WithAndWithoutJit(chex.TestCase):
    """A method is a pure function of its arrays."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(KERNEL_METHODS)
    def test_a_layer_and_its_gradients_are_the_same_and_its_arrays_are_left_alone(self, name):
        method, *arrays = made(name, "gqa")
        with jax.enable_x64(True):
            frozen, d, moved, kernel, x = jax.tree.map(
                lambda v: v.astype(jnp.float64) if jnp.issubdtype(v.dtype, jnp.floating) else v,
                arrays,
            )
            before = jax.tree.map(np.array, (frozen, d, moved, kernel, x))

            def loss(d, x):
                return jnp.sum(jnp.sin(method.apply(frozen, d, kernel, x, None)))

            step = self.variant(jax.value_and_grad(loss, (0, 1)))
            found, other = step(moved, x), step(d, x)
            chex.assert_trees_all_equal((frozen, d, moved, kernel, x), before)
            chex.assert_trees_all_equal_shapes_and_dtypes(found[1], (moved, x))
            outright = jax.value_and_grad(loss, (0, 1))(moved, x)
            chex.assert_trees_all_close(found, outright, rtol=1e-9, atol=1e-9)
            with pytest.raises(AssertionError, match="differ"):
                chex.assert_trees_all_close(other, outright, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", KERNEL_METHODS)
def test_shapes_alone_are_traced(name):
    """Other values of d are computed by the same program; other shapes have one of their own."""
    method, frozen, d, moved, kernel, x = made(name, "gqa")
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(d, x):
        def loss(d):
            return jnp.sum(jnp.square(method.apply(frozen, d, kernel, x, None)))

        return jax.grad(loss)(d)

    at_start, after = step(d, x), step(moved, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(at_start, after, d)
    with pytest.raises(AssertionError, match="traced > 1 times"):
        step(d, x[:1])
