import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.ops.two_sided_matmul import fits, fits_padded, matmul, two_sided
from tests.margins import roundings, within
from tests.marks import quick_only

SIZES = [
    (32, 64, 64, 64, 64),
    (16, 16, 32, 32, 16),
    (32, 32, 16, 16, 64),
    (8, 24, 40, 43, 5),  # padded
]


def arguments(tiles, a, b, x, y, dtype, seed=0):
    random = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(random.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)

    d = (1 + draw(tiles), 1 + draw(a), 1 + draw(b))
    return draw(tiles, a, b).astype(dtype), d, draw(a, x), draw(b, y), draw(tiles, x, y)


def reference(core, d, left, right, ct):
    """Value, and the gradient of each d, in float64."""
    core, left, right, ct = (np.asarray(a, np.float64) for a in (core, left, right, ct))
    d = [np.asarray(vector, np.float64) for vector in d]
    scaled = np.einsum("rab,r,a,b->rab", core, *d)
    product = scaled * np.einsum("rxy,ax,by->rab", ct, left, right)
    return (
        np.einsum("rab,ax,by->rxy", scaled, left, right),
        product.sum((1, 2)) / d[0],
        product.sum((0, 2)) / d[1],
        product.sum((0, 1)) / d[2],
    )


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", quick_only(["float32"], ["float32", "bfloat16"]))
def test_value_and_gradients_equal_float64(sizes, dtype):
    """Rounded are both matrices, the product with one of them, and the result."""
    bound = max(1e-5, roundings(dtype, 4))
    core, d, left, right, ct = arguments(*sizes, dtype)
    ct = ct.astype(dtype)
    value, pull = jax.vjp(lambda *d: two_sided(core, *d, left, right, True), *d)
    assert value.dtype == core.dtype
    gradients = pull(ct)
    for mine, exact in zip((value, *gradients), reference(core, d, left, right, ct), strict=True):
        error = np.asarray(mine, np.float64) - exact
        within(np.linalg.norm(error), bound * np.linalg.norm(exact))
    assert all(gradient.dtype == jnp.float32 for gradient in gradients)


def test_it_changes_with_every_argument():
    core, d, left, right, _ = arguments(*SIZES[0], "float32")
    args = (core, *d, left, right)
    value = two_sided(*args, True)
    for i, arg in enumerate(args):
        other = [*args[:i], arg.at[0].multiply(1.5), *args[i + 1 :]]
        assert not jnp.allclose(two_sided(*other, True), value)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", quick_only(["bfloat16"], ["float32", "bfloat16"]))
def test_a_sandwich_equals_float64(sizes, dtype):
    """Rounded are the scaled tensor, both matrices, the product with one, and the result."""
    bound = max(1e-5, roundings(dtype, 5))
    core, (_, d_a, d_b), left, right, _ = arguments(*sizes, dtype)
    scale = (d_a[:, None] - d_b[None, :]).astype(dtype)
    found = matmul(core, scale, left, right, True)
    exact = np.einsum(
        "rab,ab,ax,by->rxy", *(np.asarray(each, np.float64) for each in (core, scale, left, right))
    )
    assert found.dtype == dtype
    within(np.linalg.norm(np.asarray(found, np.float64) - exact), bound * np.linalg.norm(exact))


def test_it_lowers_for_a_gpu():
    """Triton's code is made without one."""
    core, d, left, right, ct = arguments(*SIZES[0], "bfloat16")

    def loss(d):
        out = two_sided(core, *d, left, right)
        return jnp.sum(out.astype(jnp.float32) * ct)

    traced = jax.jit(jax.value_and_grad(loss)).trace(d)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("gpu.triton") == 2
    traced = jax.jit(matmul).trace(core, ct[0].astype(core.dtype), left, right)
    assert "gpu.triton" in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_what_fits():
    assert fits(4096, 64, 64, 64, 64)
    assert fits(576, 16, 32)
    for sizes in ((580, 64, 64), (4096, 24, 24), (4096, 8, 64), (4096, 256, 16), (4, 64, 64)):
        assert not fits(*sizes)
    assert fits_padded(4096, 86, 128, 5)
    assert not fits_padded(4096, 86, 129)
    assert not fits_padded(4, 86, 128)
