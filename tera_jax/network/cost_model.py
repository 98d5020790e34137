"""Which exact route of a network's contraction takes less time: a model of a device's matmuls."""

import functools
import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

from tera_jax.network import hadamard, structured
from tera_jax.network.contraction_order import (
    NARROW,
    contraction_order,
    ends_with_input,
    ends_with_output,
    halves,
    multiplied,
    pairs,
)
from tera_jax.network.random_network import Structure
from tera_jax.network.tensorization import Tensorization
from tera_jax.ops import dispatch


class Device(NamedTuple):
    """What the choice of a route needs to know. Matmuls are in bfloat16 where there are units."""

    flops: float
    """Operations a second in matmuls."""
    bandwidth: float
    """Bytes a second from and to memory."""


_DEVICES = {
    "A100": Device(280e12, 1.9e12),
    "H100": Device(700e12, 3.0e12),
    "H200": Device(700e12, 4.3e12),
    "B200": Device(1700e12, 7.0e12),
    "TPU v5 lite": Device(180e12, 0.8e12),
    "cpu": Device(100e9, 20e9),
}
_UPDATE_RATE, _GRADIENTS_RATE = 0.22, 0.35
"""Of a device's matmuls, at which the structured kernels with padded tiles run. On an H200 with a
side of 11,008 those of W + dW have 0.26 (split outputs) and 0.15 (split inputs) of it."""
_DEFAULT = "H100"
"""The kind whose rates are taken for one that is not in the table."""
_log = logging.getLogger(__name__)


def device(kind: str | None = None) -> Device:
    """The rates of a kind of device, of the first one here by default.

    Rates are about nine tenths of the published ones; what counts is their ratio. A kind that is
    not in the table gets those of an H100, and a warning in the log says so once.
    """
    return _rates(dispatch.device_kind() if kind is None else kind)


@functools.cache
def _rates(kind: str) -> Device:
    for name, rates in _DEVICES.items():
        if name in kind:
            return rates
    rates = _DEVICES[_DEFAULT]
    _log.warning(
        "no rates are known for the device %r; TeRA chooses its routes by those of an %s "
        "(%.0f TFLOP/s, %.1f TB/s), which changes its speed alone",
        kind,
        _DEFAULT,
        rates.flops / 1e12,
        rates.bandwidth / 1e12,
    )
    return rates


Route = Literal["through", "project", "build"]
"""How x (W + dW) is computed in training: :func:`tera_jax.network.contraction.through`; with W + dW
made, :func:`tera_jax.network.projection.product`; or made and differentiated as it stands."""


class Network(NamedTuple):
    """The scheme of a network, and what of it is a transform."""

    scheme: Tensorization
    structure: Structure = "dense"

    @property
    def fast(self) -> bool:
        """Whether the factors of more than ``NARROW`` rows are transforms."""
        return self.structure != "dense"

    @property
    def fast_core(self) -> bool:
        """Whether the core is one."""
        return self.structure == "hadamard"

    @property
    def projects(self) -> bool:
        """Whether the route ``project`` is there, for one wide mode of the input.

        With a fast core it is there for one of the output as well.
        """
        sizes = self.scheme.ranks, self.scheme.modes, self.scheme.split
        return ends_with_input(*sizes) or (self.fast_core and ends_with_output(*sizes))

    def is_structured(self, tokens: int) -> bool:
        """Whether :mod:`tera_jax.network.structured` has its kernels for it and so many rows."""
        return self.fast_core and self.projects and structured.fits(*self.structured_sizes(tokens))

    def structured_sizes(self, tokens: int) -> structured.Arguments:
        """What :func:`tera_jax.network.structured.fits` takes."""
        scheme = self.scheme
        split_in = scheme.split > 1
        out, in_ = (scheme.out_ranks, scheme.out_modes), (scheme.in_ranks, scheme.in_modes)
        narrow = list(zip(*(in_ if split_in else out), strict=True))
        return tokens, scheme.shape[split_in], scheme.core_shape, narrow, split_in


def route(network: Network, tokens: int, rates: Device, readers: int = 1) -> Route:
    """The route that takes the least time in a training step, by :func:`seconds`.

    Of equal ones it is the last: a projected product rounds no gradient of the kernel's size.
    """
    found = seconds(network, tokens, rates, readers)
    return min(reversed(found), key=found.__getitem__)


def seconds(network: Network, tokens: int, rates: Device, readers: int = 1) -> dict[Route, float]:
    """What each route adds to the base in a training step with ``tokens`` rows.

    A product takes the longer of its arithmetic and of reading and writing its arrays, and comes
    twice: forward, and for what flows back through it. Beside those a built update has the product
    of the batch with its cotangent, but for a fast core, whose d gets its gradient on the side of
    the activations. Decoding alone gives nearly the same answer.

    Args:
        network: its sizes.
        tokens: rows of the batch.
        rates: of the device.
        readers: layers that share this input and this network.
    """
    scheme, fast = network.scheme, network.fast
    (j1, j2), (r1, r2) = scheme.shape, scheme.core_shape
    every = pairs(scheme.ranks, scheme.modes)
    inward = pairs(scheme.in_ranks, scheme.in_modes)
    outward = pairs(scheme.out_ranks, scheme.out_modes)
    transposed = [(mode, rank) for rank, mode in inward]
    every = _in_order(every)
    made = _chain_seconds(r1 * r2, every, rates, fast)
    enter = _chain_seconds(tokens * j1, transposed, rates, fast)
    apply = enter + _core_seconds(tokens, network, rates)
    apply += _chain_seconds(tokens * r2, outward, rates, fast)
    built = 2 * made + _seconds(j1, tokens, j2, rates)
    found: dict[Route, float] = {"through": 2 * apply, "build": built}
    if network.is_structured(tokens):
        found["project"] = _structured_seconds(tokens, network, rates)
    elif network.projects and network.fast_core:
        found["project"] = made + 2 * apply - enter
    elif network.projects:
        last = _factor_seconds(j2, r1, j1, rates, fast)
        found["project"] = built - last + _factor_seconds(tokens, j1, r1, rates, fast) / readers
    return found


def _in_order(every: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Groups as they are contracted: two halves where a kernel takes all before a wide one."""
    order = contraction_order(every)
    last = order[-1]
    narrow = [pair for axis, pair in enumerate(every) if axis != last]
    at = halves(narrow) if every[last][0] > NARROW and last in (0, len(narrow)) else None
    if at is None:
        return [every[axis] for axis in order]
    return [multiplied(narrow[:at]), multiplied(narrow[at:]), every[last]]


def _core_seconds(rows: int, network: Network, rates: Device) -> float:
    """Of ``rows`` vectors with the core."""
    in_rank, out_rank = network.scheme.core_shape
    if not network.fast_core:
        return _seconds(rows, in_rank, out_rank, rates)
    return _factor_seconds(rows, max(in_rank, out_rank), max(in_rank, out_rank), rates, True)


def _structured_seconds(tokens: int, network: Network, rates: Device) -> float:
    """Of reading W and writing W + dW, and of reading a batch and its cotangent.

    A row of either takes as many small matmuls as fit in the time of moving it, but where tiles are
    padded or wider: then those matmuls take longer.
    """
    j1, j2 = network.scheme.shape
    moving = 2 * (2 * j1 * j2 + tokens * (j1 + j2)) / rates.bandwidth
    update, gradients = structured.flops(*network.structured_sizes(tokens))
    return max(moving, (update / _UPDATE_RATE + gradients / _GRADIENTS_RATE) / rates.flops)


def _chain_seconds(size: int, pairs: Sequence[tuple[int, int]], rates: Device, fast: bool) -> float:
    """Of a tensor of ``size`` entries with one factor (rows, columns) after the other."""
    total = 0.0
    for rank, mode in pairs:
        rows = size // rank
        total += _factor_seconds(rows, rank, mode, rates, fast)
        size = rows * mode
    return total


def _factor_seconds(rows: int, rank: int, mode: int, rates: Device, fast: bool) -> float:
    """Of ``rows`` vectors with a factor, or with each Kronecker factor of a transform."""
    if not (fast and rank > NARROW):
        return _seconds(rows, rank, mode, rates)
    return sum(_seconds(rows * rank // h, h, h, rates) for h in hadamard.kronecker_sizes(rank))


def _seconds(rows: int, inner: int, columns: int, rates: Device) -> float:
    """Of (rows, inner) @ (inner, columns), with two bytes a number."""
    numbers = rows * inner + inner * columns + rows * columns
    return max(2 * rows * inner * columns / rates.flops, 2 * numbers / rates.bandwidth)
