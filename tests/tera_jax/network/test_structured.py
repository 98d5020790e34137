import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import float8
from tera_jax.network import hadamard, structured
from tera_jax.network.structured import Network, Vectors
from tera_jax.random import seed_key
from tests.margins import roundings, within
from tests.marks import quick_only
from tests.tera_jax.network.networks import far

SIZES = [
    (256, (16, 16), (16, 16)),
    (1024, (16, 32), (32, 32)),  # fewer output ranks than input ranks
    (1024, (32, 64), (32, 16)),  # an output wider than its ranks, and one narrower
]


def arguments(sizes, dtype, tokens=64, seed=0):
    width, (a, x), (b, y) = sizes
    random = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(random.standard_normal(shape), jnp.float32)

    keys = jax.random.split(seed_key(seed, "structured"), 3)
    sizes = (width, width, a * b)
    signs = [hadamard.signs(key, n, dtype) for key, n in zip(keys, sizes, strict=True)]
    signs[1] *= 4
    network = Network(*signs, draw(a, x) / a**0.5, draw(b, y) / b**0.5)
    trained = Vectors(*(1 + 0.5 * draw(n) for n in (width, a, b)))
    kernel, x_TJ, ct_TO = draw(width, x * y), draw(tokens, width), draw(tokens, x * y)
    return network, trained, kernel, x_TJ.astype(dtype), ct_TO.astype(dtype)


def update(network, trained):
    """In float64, by the formula at the head of the module."""
    signs, before, after, left, right = (np.asarray(each, np.float64) for each in network[:5])
    d, e, f = (np.asarray(each, np.float64) for each in trained[:3])
    matrix = hadamard.dense(jnp.ones(signs.size))
    narrow = np.kron(e[:, None] * left, f[:, None] * right)
    core = (before * d)[:, None] * matrix[:, : after.size] * after
    return signs[:, None] * (matrix.T @ core @ narrow)


def exact_gradients(network, trained, x_TJ, ct_TO):
    """Of the sum of ``ct * (x @ update)`` in float64."""
    signs, before, after, left, right = (np.asarray(each, np.float64) for each in network[:5])
    d, e, f = (np.asarray(each, np.float64) for each in trained[:3])
    matrix = hadamard.dense(jnp.ones(signs.size))
    core = matrix[:, : after.size] * after
    weight = np.asarray(x_TJ, np.float64).T @ np.asarray(ct_TO, np.float64)
    entered = matrix @ (signs[:, None] * weight)
    narrow = np.kron(e[:, None] * left, f[:, None] * right)
    to_d = before * np.sum(entered * (core @ narrow), axis=1)
    to_narrow = core.T @ ((before * d)[:, None] * entered)
    tiles = to_narrow.reshape(*left.shape[:1], *right.shape[:1], left.shape[1], right.shape[1])
    product = np.einsum("abxy,ax,by->ab", tiles, left, right)
    return to_d, product @ f, e @ product


@pytest.mark.parametrize("sizes", quick_only([*SIZES][:1], SIZES))
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_the_adapted_kernel_equals_float64(sizes, dtype, bound):
    network, trained, kernel, _, _ = arguments(sizes, dtype)
    exact = update(network, trained)
    alone = structured.adapted(jnp.zeros_like(kernel), network, trained, interpret=True)
    assert alone.dtype == kernel.dtype
    within(far(alone, exact), bound)
    added = structured.adapted(kernel.astype(dtype), network, trained, interpret=True)
    assert added.dtype == jnp.dtype(dtype)
    within(far(added, np.asarray(kernel.astype(dtype), np.float64) + exact), bound)


@pytest.mark.parametrize("sizes", quick_only([*SIZES][:2], SIZES))
@pytest.mark.parametrize("dtype", quick_only(["float32"], ["float32", "bfloat16"]))
def test_the_gradients_equal_float64(sizes, dtype):
    """Over four draws: a gradient of few entries may by chance be a small sum of large terms.

    Three modes and the tokens are each rounded twice.
    """
    bound = max(1e-5, roundings(dtype, 8))
    found, exact = [], []
    for seed in range(4):
        network, trained, _, x_TJ, ct_TO = arguments(sizes, dtype, seed=seed)
        found.append(structured.gradients(x_TJ, ct_TO, network, trained, interpret=True))
        exact.append(exact_gradients(network, trained, x_TJ, ct_TO))
    found = zip(*map(jax.tree.leaves, found), strict=True)
    for mine, right in zip(found, zip(*exact, strict=True), strict=True):
        assert all(each.dtype == jnp.float32 for each in mine)
        error = np.concatenate(mine) - np.concatenate(right)
        within(np.linalg.norm(error), bound * np.linalg.norm(np.concatenate(right)))


def test_both_change_with_every_argument():
    network, trained, kernel, x_TJ, ct_TO = arguments(SIZES[1], "float32")
    made = structured.adapted(kernel, network, trained, True)
    found = structured.gradients(x_TJ, ct_TO, network, trained, True)
    leaves, form = jax.tree.flatten((network, trained))
    for i, each in enumerate(leaves):
        parts = [*leaves]
        parts[i] = each.at[0].multiply(1.5)
        other = jax.tree.unflatten(form, parts)
        assert not jnp.allclose(structured.adapted(kernel, *other, True), made)
        changed = structured.gradients(x_TJ, ct_TO, *other, True)
        assert not jax.tree.all(jax.tree.map(jnp.allclose, changed, found))


@pytest.mark.parametrize("tokens", [2048, 8192])
def test_every_token_counts_however_many_a_program_takes(tokens):
    network, trained, _, x_TJ, ct_TO = arguments(SIZES[0], "float32", tokens)

    def of(start, stop):
        part = x_TJ[start:stop], ct_TO[start:stop]
        return jax.tree.leaves(structured.gradients(*part, network, trained, True))

    few = tokens // 8 * 3
    for whole, *parts in zip(of(0, tokens), of(0, few), of(few, tokens), strict=True):
        within(far(sum(parts), whole), 1e-5)


def test_they_lower_for_a_gpu():
    network, trained, kernel, x_TJ, ct_TO = arguments(SIZES[1], "bfloat16")
    calls = [
        (structured.adapted, (kernel, network, trained)),
        (structured.gradients, (x_TJ, ct_TO, network, trained)),
    ]
    for function, args in calls:
        text = jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
        assert text.count("gpu.triton") == 1


def test_what_fits():
    square = [(64, 64), (64, 64)]
    assert structured.fits(8192, 4096, (4096, 4096), square)
    assert structured.fits(32, 4096, (4096, 1024), [(16, 16), (64, 64)])
    assert structured.fits(8192, 576, (576, 576), [(24, 24), (24, 24)])
    assert not structured.fits_square(8192, 576, (576, 576), [(24, 24), (24, 24)])
    for other in (
        (8200, 4096, (4096, 4096), square),  # tokens
        (
            8192,
            4096,
            (4096, 1024),
            [(32, 32), (32, 32)],
        ),  # groups of other sizes than the Kronecker factors
        (8192, 4096, (2048, 4096), square),  # a rank below the mode
        (8192, 4096, (4096, 8192), [(128, 64), (64, 64)]),  # more output ranks than input ranks
        (8192, 4096, (4096, 4096), [(4096, 4096)]),  # a whole output side
        (8192, 3584, (3584, 18944), [(37, 37), (16, 16), (32, 32)]),  # not 2 x 74 x 128
        (8192, 4096, (4096, 11008), [(4, 4), (8, 8), (8, 8), (43, 43)]),  # 256 by 43
        (8192, 64, (64, 64), [(8, 8), (8, 8)]),  # a single factor
    ):
        assert not structured.fits(*other)


@pytest.mark.parametrize("layouts", [1, 2])
def test_codes_of_a_kernel_are_read_in_its_place(layouts):
    network, trained, kernel, *_ = arguments(SIZES[0], jnp.bfloat16)
    random = np.random.default_rng(1)
    scale_O = jnp.asarray(np.exp2(random.integers(-3, 4, kernel.shape[1])), jnp.float32)
    stored = float8.by_channels((kernel * scale_O[None]).astype(jnp.bfloat16))
    if layouts == 2:
        stored = float8.with_both_layouts(stored)
    found = structured.adapted(stored, network, trained, interpret=True)
    # Codes times powers of two are exact in bfloat16: the same sum, rounded once.
    expected = structured.adapted(stored.dequantize(), network, trained, interpret=True)
    assert found.dtype == jnp.bfloat16
    assert jnp.array_equal(found, expected)
    other = stored.replace(channel_scales=2 * stored.channel_scales)
    changed = structured.adapted(other, network, trained, interpret=True)
    assert not jnp.array_equal(changed, expected)
