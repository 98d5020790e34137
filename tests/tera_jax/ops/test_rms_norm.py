import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import sharding
from tera_jax.ops import dispatch, rms_norm
from tera_jax.ops.rms_norm import RMSNorm, gradient, normed
from tests.margins import roundings, within


def arguments(rows, width, dtype, seed=0):
    random = np.random.default_rng(seed)
    drawn = random.standard_normal((3, rows, width)) * [[[3.0]], [[0.5]], [[1.0]]]
    scale = 1 + 0.3 * random.standard_normal(width)
    return *(jnp.asarray(each, dtype) for each in drawn), jnp.asarray(scale, dtype)


def reference(x, ct_x, ct_y, scale, eps):
    """In float64, by the Jacobian of each row."""
    x, ct_x, ct_y, scale = (np.asarray(a, np.float64) for a in (x, ct_x, ct_y, scale))
    found = []
    for row, direct, ct in zip(x, ct_x, ct_y, strict=True):
        size = np.sqrt(np.mean(row**2) + eps)
        jacobian = np.diag(scale) / size - np.outer(scale * row, row) / (len(row) * size**3)
        found.append(direct + ct @ jacobian)
    return np.array(found)


@pytest.mark.parametrize("width", [256, 768, 1024])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_equals_float64(width, dtype):
    bound = max(1e-6, roundings(dtype, 1))  # float32 has its sums too
    args = arguments(5, width, dtype)
    found = gradient(*args, 0.1, interpret=True)
    exact = reference(*args, 0.1)
    assert found.dtype == dtype
    within(np.linalg.norm(np.asarray(found, np.float64) - exact), bound * np.linalg.norm(exact))


def test_it_changes_with_every_argument():
    args = arguments(3, 256, "float32")
    found = gradient(*args, 0.1, interpret=True)
    for i, arg in enumerate(args):
        other = [*args[:i], arg.at[0].multiply(1.5), *args[i + 1 :]]
        assert not jnp.allclose(gradient(*other, 0.1, interpret=True), found)
    assert not jnp.allclose(gradient(*args, 0.5, interpret=True), found)


def test_the_module_is_the_same_with_the_kernel_and_without():
    """Also its scale's gradient, and under rematerialisation."""
    x, _, _, scale = arguments(6, 256, "float32")
    x = x.reshape(2, 3, 256)
    module = RMSNorm(1e-5, jnp.float32, jnp.float32)

    @jax.checkpoint
    def loss(scale, x):
        kept, y = module.apply({"params": {"scale": scale}}, x)
        return jnp.sum(jnp.sin(3 * kept) + jnp.cos(y) * y)

    def of(kernels):
        with dispatch.forced(kernels):
            text = str(jax.make_jaxpr(jax.grad(loss))(scale, x))
            assert ("pallas_call" in text) == kernels
            return jax.value_and_grad(loss, argnums=(0, 1))(scale, x)

    for mine, expected in zip(*(jax.tree.leaves(of(f)) for f in (True, False)), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-5)


def test_it_norms():
    x, _, _, scale = arguments(4, 96, "float32")
    wide = np.asarray(x, np.float64)
    exact = wide / np.sqrt(np.mean(wide**2, axis=-1, keepdims=True) + 0.1) * np.asarray(scale)
    np.testing.assert_allclose(normed(x, scale, 0.1, jnp.float32), exact, rtol=1e-5)
    kept, y = RMSNorm(0.1, jnp.float32, jnp.float32).apply({"params": {"scale": scale}}, x)
    assert kept is x
    np.testing.assert_allclose(y, exact, rtol=1e-5)


@pytest.mark.parametrize(
    ("width", "warps"), [(256, 4), (3584, 4), (4096, 8), (5120, 8), (16384, 32)]
)
def test_it_lowers_for_a_gpu(width, warps):
    """Triton's code is made without one."""
    args = arguments(2, width, "bfloat16")
    traced = jax.jit(lambda *args: gradient(*args, 1e-5)).trace(*args)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("gpu.triton") == 1
    assert f"num_warps = {warps} :" in text


def test_gpus_that_have_as_many_rows_take_the_kernel(monkeypatch):
    assert not rms_norm._takes_kernel((2, 4096))  # no GPU here
    monkeypatch.setattr(dispatch, "on_gpu", lambda: True)
    assert rms_norm._takes_kernel((2, 4096))
    assert not rms_norm._takes_kernel((2, 576))  # parts of 64
    with jax.set_mesh(sharding.make_mesh(2)):
        assert rms_norm._takes_kernel((2, 4096))
        assert not rms_norm._takes_kernel((3, 4096))
        assert not rms_norm._takes_kernel((4096,))
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        assert not rms_norm._takes_kernel((2, 4096))


@pytest.mark.long
@pytest.mark.parametrize("sizes", [(2, 1, 1), (2, 2, 2)])
def test_on_a_mesh_each_device_has_its_rows(sizes):
    x, ct_x, ct_y, scale = (
        jnp.broadcast_to(each, (4, *each.shape)) if each.ndim > 1 else each
        for each in arguments(3, 256, "float32")
    )
    x = x * jnp.arange(1.0, 5.0)[:, None, None]

    def pulled(x):
        _, pull = jax.vjp(lambda x: rms_norm._beside(0.1, jnp.dtype("float32"), x, scale), x)
        return pull((ct_x, ct_y))[0]

    expected = pulled(x)
    with jax.set_mesh(mesh := sharding.make_mesh(*sizes)), dispatch.forced(True):
        found = jax.jit(pulled)(jax.device_put(x, sharding.rows(mesh)))
    assert found.sharding.is_equivalent_to(sharding.rows(mesh), 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(expected[0], expected[1])
