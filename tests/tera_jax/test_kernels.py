import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.kernels import fits, two_sided

SIZES = [(32, 64, 64, 64, 64), (16, 16, 32, 32, 16), (32, 32, 16, 16, 64)]


def arguments(tiles, a, b, x, y, dtype, seed=0):
    random = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(random.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)

    core = draw(tiles, a, b).astype(dtype)
    return core, 1 + draw(tiles), draw(a, x), draw(b, y), draw(tiles, x, y).astype(dtype)


def reference(core, d, left, right, ct):
    """Value, and gradients of d, left and right, in float64."""
    core, d, left, right, ct = (np.asarray(a, np.float64) for a in (core, d, left, right, ct))
    whole = np.einsum("rab,ax,by->rxy", core, left, right)
    return (
        d[:, None, None] * whole,
        np.einsum("rxy,rxy->r", ct, whole),
        np.einsum("rab,rxy,r,by->ax", core, ct, d, right),
        np.einsum("rab,rxy,r,ax->by", core, ct, d, left),
    )


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_value_and_gradients_equal_float64(sizes, dtype, bound):
    core, d, left, right, ct = arguments(*sizes, dtype)
    value, pull = jax.vjp(lambda *args: two_sided(core, *args, True), d, left, right)
    assert value.dtype == core.dtype
    gradients = pull(ct)
    for mine, exact in zip((value, *gradients), reference(core, d, left, right, ct), strict=True):
        error = np.asarray(mine, np.float64) - exact
        assert np.linalg.norm(error) < bound * np.linalg.norm(exact)
    assert all(gradient.dtype == jnp.float32 for gradient in gradients)


def test_it_changes_with_every_argument():
    args = arguments(*SIZES[0], "float32")[:4]
    value = two_sided(*args, True)
    for i, arg in enumerate(args):
        other = [*args[:i], arg.at[0].multiply(1.5), *args[i + 1 :]]
        assert not jnp.allclose(two_sided(*other, True), value)


def test_it_lowers_for_a_gpu():
    """Triton's code is made without one."""
    core, d, left, right, ct = arguments(*SIZES[0], "bfloat16")

    def loss(d, left, right):
        return jnp.sum((two_sided(core, d, left, right) * ct).astype(jnp.float32))

    traced = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).trace(d, left, right)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("gpu.triton") == 2


def test_what_fits():
    assert fits(4096, 64, 64, 64, 64)
    assert fits(576 // 9, 16, 32)
    for sizes in ((576, 64, 64), (4096, 24, 24), (4096, 8, 64), (4096, 256, 16), (4, 64, 64)):
        assert not fits(*sizes)
