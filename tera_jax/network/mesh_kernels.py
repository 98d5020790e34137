"""The kernels of :mod:`tera_jax.network.structured` on a mesh: each device has its part of W and x.

A kernel of a layer is split over ``fsdp`` along one side and over ``tensor`` along the other.

- **W + dW** is made of the part of W that a device holds: rows of dW are independent, and some of
  its columns need those columns of the first narrow matrix alone. What a matmul gathers is then
  W + dW, where a frozen base gathers W.
- **The gradients of d** are linear in x and in the cotangent. Each device has those of its rows of
  the batch, and of its part of their entries where ``tensor`` splits them. They are summed over the
  devices as vectors, once.

Only the kernels of :mod:`tera_jax.network.kernels.square` can do a part of W or of a row. The
others do the whole of a gathered W, and whole rows: not where ``tensor`` splits either side.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from tera_jax.float8 import Float8Kernel
from tera_jax.network import structured
from tera_jax.network.kernels import square
from tera_jax.network.structured import Network, Vectors
from tera_jax.ops import dispatch, on_mesh

_LEAST = 16
"""Entries along which a kernel's matmul sums, at the least."""


class Layout(NamedTuple):
    """The axes of the mesh that split the inputs and the outputs of a kernel, if any does."""

    inputs: str | None = None
    outputs: str | None = None

    @property
    def spec(self) -> P:
        """Of the kernel (J, O)."""
        return P(*self)

    @property
    def of_activations(self) -> "Layout":
        """How x and y = x W are split along a row: ``fsdp`` splits their rows instead."""
        return Layout(*(axis if axis == "tensor" else None for axis in self))


def fits(
    rows: int,
    width: int,
    core_shape: tuple[int, int],
    narrow: Sequence[tuple[int, int]],
    layout: Layout,
    split_in: bool = False,
) -> bool:
    """Whether the kernels can: :func:`tera_jax.network.structured.fits` of a device's part.

    Args:
        rows: of the batch, on all devices.
        width: of the whole side, J.
        core_shape: of the core.
        narrow: (rank, mode) of the groups of modes of the other side.
        layout: of the kernel; what it splits over ``fsdp`` may have to be gathered first.
        split_in: whether the other side is the input side.
    """
    rows, rest = divmod(rows, on_mesh.parts("data", "fsdp"))
    if rest or not structured.fits(rows, width, core_shape, narrow, split_in):
        return False
    inputs, outputs = layout.of_activations
    if on_mesh.parts(inputs, outputs) == 1:
        return True
    if split_in or not structured.fits_square(rows, width, core_shape, narrow):
        return False
    turned = on_mesh.parts(inputs)
    if turned > 1 and not square.divides(width, turned, _LEAST):
        return False
    found = structured.grouped(core_shape, narrow)
    return found is not None and _divides_outputs(rows, width, core_shape, found[1:], outputs)


def _divides_outputs(
    rows: int, width: int, core_shape: tuple[int, int], narrow: Any, axis: str | None
) -> bool:
    (a, x), last = narrow
    x, rest = divmod(x, on_mesh.parts(axis))
    return not rest and square.fits(rows, width, core_shape, [(a, x), last])


def _fitting(network: Network, layout: Layout, split_in: bool) -> Layout:
    """The layout but for an ``fsdp`` into whose parts the kernels cannot divide W."""
    inputs, outputs = layout
    if not structured.is_square(network, split_in):
        return Layout()
    width = network.signs_J.size
    core_shape = width, network.after_S.size
    narrow = [network.left_AX.shape, network.right_BY.shape]
    if inputs == "fsdp" and not square.divides(width, on_mesh.parts(inputs)):
        inputs = None
    if outputs == "fsdp" and not _divides_outputs(0, width, core_shape, narrow, outputs):
        outputs = None
    return Layout(inputs, outputs)


def adapted(
    kernel_JO: Float[Array, "J O"] | Float8Kernel,
    network: Network,
    trained: Vectors,
    given: Layout,
    split_in: bool = False,
) -> Float[Array, "J O"]:
    """:func:`tera_jax.network.structured.adapted`, of what :func:`fits`.

    Args:
        kernel_JO: W.
        network: frozen, whole on each device.
        trained: d, e and f.
        given: how W is split. W + dW is split likewise, so that it is stored in parts.
        split_in: whether the input side is split into modes.
    """
    layout = _fitting(network, given, split_in)

    def part(kernel_JO: Any, network: Network, trained: Vectors) -> Array:
        start = on_mesh.first(layout.inputs, kernel_JO.shape[0])
        own = _columns(network, layout.outputs)
        how = dispatch.interpret(), split_in, start
        return structured.adapted(kernel_JO, own, trained, *how)

    in_specs = _specs(kernel_JO, layout), P(), P()
    return on_mesh.run(part, in_specs, layout.spec, kernel_JO, network, trained)


def gradients(
    x_TJ: Float[Array, "T J"],
    ct_TO: Float[Array, "T O"],
    network: Network,
    trained: Vectors,
    given: Layout,
    split_in: bool = False,
) -> Vectors:
    """:func:`tera_jax.network.structured.gradients`, of what :func:`fits`.

    Args:
        x_TJ: rows of the batch.
        ct_TO: likewise.
        network: frozen, whole on each device.
        trained: d, e and f.
        given: how the kernel is split.
        split_in: whether the input side is split into modes.

    Returns:
        The sums over all devices.
    """
    inputs, outputs = given.of_activations

    def part(x_TJ: Array, ct_TO: Array, network: Network, trained: Vectors) -> Vectors:
        start = on_mesh.first(inputs, x_TJ.shape[1])
        own = _columns(network, outputs)
        how = dispatch.interpret(), split_in, start
        found = structured.gradients(x_TJ, ct_TO, own, trained, *how)
        split_over = [*on_mesh.BATCH, *filter(None, (inputs, outputs))]
        return on_mesh.total(found, split_over)

    rows = on_mesh.BATCH
    in_specs = P(rows, inputs), P(rows, outputs), P(), P()
    return on_mesh.run(part, in_specs, P(), x_TJ, ct_TO, network, trained)


def _columns(network: Network, axis: str | None) -> Network:
    """Of the outputs of this device: those of some columns of the first narrow matrix."""
    if axis is None or (parts := on_mesh.parts_inside(axis)) == 1:
        return network
    count = network.left_AX.shape[1] // parts
    left_AX = jax.lax.dynamic_slice_in_dim(
        network.left_AX, on_mesh.first(axis, count), count, axis=1
    )
    return network._replace(left_AX=left_AX)


def _specs(kernel_JO: Any, layout: Layout) -> Any:
    """How the arrays are split that a kernel is stored as."""
    if not isinstance(kernel_JO, Float8Kernel):
        return layout.spec
    inputs, outputs = layout
    both = None if kernel_JO.backward_codes is None else layout.spec
    return kernel_JO.replace(
        codes=P(outputs, inputs), channel_scales=P(outputs), backward_codes=both
    )
