"""The kernels on a mesh of fake devices give what they give on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tera_jax import float8, sharding
from tera_jax.methods.base import TargetLayer
from tera_jax.methods.tera import TeRA
from tera_jax.network import cost_model, mesh_kernels, projection
from tera_jax.network.mesh_kernels import Layout
from tera_jax.ops import dispatch, on_mesh
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.network.networks import example, far

MESHES = [(2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1), (1, 2, 2), (2, 2, 2)]
SIDES = [("fsdp", "tensor"), ("tensor", "fsdp")]
STRUCTURED = "1024|4x8x4x8 fast core"
TOKENS = 128


@functools.cache
def drawn(text):
    scheme, core, factors, d, random = example(text)
    x, kernel = (
        jnp.asarray(random.standard_normal(shape), jnp.float32)
        for shape in ((TOKENS, scheme.shape[0]), scheme.shape)
    )
    return x, kernel, core, factors, d


def results(text, axes, kernels, mesh=None, change=None):
    """The loss, and the gradients of d and of x; and the text of the traced program."""
    x, kernel, core, factors, d = drawn(text)
    if change is not None:
        d = [each * (1.5 if i == change else 1) for i, each in enumerate(d)]

    def loss(d, x, kernel, core, factors):
        y = projection.product(x, kernel, core, factors, d, axes=axes)
        return jnp.sum(jnp.sin(y / 16))

    step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    with dispatch.forced(kernels):
        if mesh is None:
            return step(d, x, kernel, core, factors), ""
        with jax.set_mesh(mesh):
            placed = jax.device_put(kernel, NamedSharding(mesh, P(*axes)))
            rest = jax.device_put((d, core, factors), sharding.replicated(mesh))
            x = jax.device_put(x, sharding.rows(mesh))
            given = rest[0], x, placed, *rest[1:]
            return step(*given), str(step.trace(*given).jaxpr)


def alike(found, expected):
    for mine, right in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        within(far(mine, right), 1e-5)


@pytest.mark.parametrize(
    ("sizes", "axes"),
    quick_only(
        [((1, 2, 2), SIDES[0])],
        [(sizes, axes) for sizes in MESHES for axes in SIDES],
        names=2,
    ),
)
def test_structured_kernels_on_a_mesh_give_what_one_device_gives(sizes, axes):
    expected, _ = results(STRUCTURED, axes, False)
    found, text = results(STRUCTURED, axes, True, sharding.make_mesh(*sizes))
    assert text.count("pallas_call[") == text.count("shard_map[") == 2
    alike(found, expected)


@pytest.mark.long
@pytest.mark.parametrize("change", range(5))
def test_their_result_changes_with_every_vector(change):
    mesh = sharding.make_mesh(1, 2, 2)
    results_ = [results(STRUCTURED, SIDES[0], True, mesh, change=i)[0] for i in (None, change)]
    (loss, grads), (other, others) = results_
    assert abs(other / loss - 1) > 1e-4
    for mine, right in zip(*map(jax.tree.leaves, (grads, others)), strict=True):
        assert far(mine, right) > 1e-3


@pytest.mark.parametrize(
    ("text", "sizes"),
    quick_only(
        [("128|8x16", (2, 2, 1))],
        [(text, sizes) for text in ("128|8x16", "256|4x8 fast") for sizes in MESHES],
        names=2,
    ),
)
@pytest.mark.parametrize("axes", quick_only([SIDES[0]], SIDES))
def test_a_dense_core_on_a_mesh_gives_what_one_device_gives(text, sizes, axes):
    expected, _ = results(text, axes, False)
    found, text = results(text, axes, None, sharding.make_mesh(*sizes))
    assert text.count("shard_map[") == 1
    alike(found, expected)


@pytest.mark.long
@pytest.mark.parametrize("axes", SIDES)
@pytest.mark.parametrize("layouts", [1, 2])
def test_codes_of_a_kernel_are_split_like_it(axes, layouts):
    _, kernel, core, factors, d = drawn(STRUCTURED)
    stored = float8.by_channels(kernel.astype(jnp.bfloat16))
    if layouts == 2:
        stored = float8.with_both_layouts(stored)
    parts = projection.structured.parts(core, factors, d)
    with dispatch.forced(True), jax.set_mesh(sharding.make_mesh(1, 2, 2)):
        adapted = jax.jit(functools.partial(mesh_kernels.adapted, given=Layout(*axes)))
        found, expected = adapted(stored, *parts), adapted(stored.dequantize(), *parts)
    assert jnp.array_equal(found, expected)


def test_what_fits_a_mesh():
    square = 4096, (4096, 4096), [(64, 64), (64, 64)]
    by_outputs, by_inputs = (Layout(*axes) for axes in SIDES)
    assert mesh_kernels.fits(32, *square, by_outputs)
    with jax.set_mesh(sharding.make_mesh(2, 4)):
        assert on_mesh.is_split()
        assert mesh_kernels.fits(256, *square, by_outputs)
        assert not mesh_kernels.fits(128, *square, by_outputs)  # 16 tokens a device
    for tensor, fitting in ((4, True), (8, False)):  # parts of 16 and of 8
        with jax.set_mesh(sharding.make_mesh(tensor=tensor)):
            for layout in (by_outputs, by_inputs):
                assert mesh_kernels.fits(32, *square, layout) == fitting


@pytest.mark.long
def test_a_side_that_fsdp_cannot_divide_is_made_whole():
    """Sixteen inputs' columns for eight devices are two each, and half an output's sixteen."""
    _, kernel, core, factors, d = drawn("256|4x4x16 fast core")
    parts = projection.structured.parts(core, factors, d)

    def made(layout):
        with dispatch.forced(True):
            return jax.jit(functools.partial(mesh_kernels.adapted, given=layout))(kernel, *parts)

    expected = made(Layout())
    for sizes, axes, spec in (
        ((1, 2), SIDES[0], P("fsdp", "tensor")),
        ((1, 2), SIDES[1], P("tensor", None)),
    ):
        with jax.set_mesh(mesh := sharding.make_mesh(*sizes)):
            found = made(Layout(*axes))
        assert found.sharding.is_equivalent_to(NamedSharding(mesh, spec), 2)
        np.testing.assert_array_equal(found, expected)


def test_meshes_with_other_axes_take_no_kernel(monkeypatch):
    monkeypatch.setattr(dispatch, "on_gpu", lambda: True)
    assert on_mesh.has_kernels()
    with jax.set_mesh(sharding.make_mesh(2)):
        assert on_mesh.has_kernels()
        assert on_mesh.splits_rows(4)
        assert not on_mesh.splits_rows(3)
        assert not dispatch.on_one_gpu()
        inside = jax.make_jaxpr(
            lambda x: on_mesh.run(
                lambda x: x + (1.0 if dispatch.on_one_gpu() else 2.0), [P("data")], P("data"), x
            )
        )(jnp.zeros(4))
        assert "1.0" in str(inside)
    with jax.set_mesh(jax.make_mesh((2,), ("x",), (jax.sharding.AxisType.Auto,))):
        assert not on_mesh.has_kernels()


def test_the_route_is_that_of_the_tokens_of_a_device(monkeypatch):
    tokens = []
    monkeypatch.setattr(cost_model, "route", lambda *a: tokens.append(a[1]) or "through")
    layer = TargetLayer(("q_proj",), (128, 128))
    TeRA().materializes(layer, 64)
    with jax.set_mesh(sharding.make_mesh(2, 2, 2)):
        TeRA().materializes(layer, 64)
    assert tokens == [64, 16]
