"""Which exact route of a network's contraction takes less time: a model of a device's products."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax

from tera_jax import transform
from tera_jax.grouping import NARROW, ends_with_input, pairs, turns


class Device(NamedTuple):
    """What the choice of a route needs to know. Products are in bfloat16 where there are units."""

    flops: float
    """Operations a second in matrix products."""
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


def device(kind: str | None = None) -> Device:
    """The rates of a kind of device, of the first one here by default; unknown ones are H100s.

    Rates are about nine tenths of the published ones; what counts is their ratio.
    """
    kind = jax.devices()[0].device_kind if kind is None else kind
    return next((rates for name, rates in _DEVICES.items() if name in kind), _DEVICES["H100"])


Route = Literal["through", "project", "build"]
"""How x (W + dW) is computed in training: :func:`tera_jax.contraction.through`; with W + dW made,
:func:`tera_jax.projection.product`; or made and differentiated as it stands."""


def route(
    ranks: Sequence[int],
    modes: Sequence[int],
    split: int,
    tokens: int,
    rates: Device,
    fast: bool = False,
    readers: int = 1,
) -> Route:
    """The route that takes the least time in a training step with ``tokens`` rows.

    A product takes the longer of its arithmetic and of reading and writing its arrays, and comes
    twice: forward, and for what flows back through it. Beside those a built update has the product
    of the batch with its cotangent. Decoding alone gives nearly the same answer.

    Args:
        ranks: R_1..R_N.
        modes: I_1..I_N.
        split: the number of input modes.
        tokens: rows of the batch.
        rates: of the device.
        fast: whether the factors of more than ``NARROW`` rows are transforms.
        readers: layers that share this input and this network (:func:`readers`).
    """
    j1, j2 = math.prod(modes[:split]), math.prod(modes[split:])
    r1, r2 = math.prod(ranks[:split]), math.prod(ranks[split:])
    every = pairs(ranks, modes)
    inward, outward = pairs(ranks[:split], modes[:split]), pairs(ranks[split:], modes[split:])
    transposed = [(mode, rank) for rank, mode in inward]
    every = [every[axis] for axis in turns(every)]
    made = _chain_seconds(r1 * r2, every, rates, fast)
    apply = _chain_seconds(tokens * j1, transposed, rates, fast)
    apply += _seconds(tokens, r1, r2, rates) + _chain_seconds(tokens * r2, outward, rates, fast)
    built = 2 * made + _seconds(j1, tokens, j2, rates)
    seconds: dict[Route, float] = {"through": 2 * apply, "build": built}
    if ends_with_input(ranks, modes, split):
        last = _factor_seconds(j2, r1, j1, rates, fast)
        seconds["project"] = built - last + _factor_seconds(tokens, j1, r1, rates, fast) / readers
    # Of equal ones the last: a projected product rounds no gradient of the kernel's size.
    return min(reversed(seconds), key=seconds.__getitem__)


def readers(paths: Sequence[tuple[str, ...]]) -> int:
    """How many of some layers to expect to read one input: 2 where any stand in one module, else 1.

    Layers of one shape in one module mostly do, such as q, k and v, or gate and up. The estimate is
    low for the former and high for q beside o.
    """
    return 2 if len({path[:-1] for path in paths}) < len(paths) else 1


def _chain_seconds(size: int, pairs: Sequence[tuple[int, int]], rates: Device, fast: bool) -> float:
    """Of a tensor of ``size`` entries with one factor (rows, columns) after the other."""
    total = 0.0
    for rank, mode in pairs:
        rows = size // rank
        total += _factor_seconds(rows, rank, mode, rates, fast)
        size = rows * mode
    return total


def _factor_seconds(rows: int, rank: int, mode: int, rates: Device, fast: bool) -> float:
    """Of ``rows`` vectors with a factor or, where it is a transform, with each of its stages."""
    if not (fast and rank > NARROW):
        return _seconds(rows, rank, mode, rates)
    return sum(_seconds(rows * rank // h, h, h, rates) for h in transform.stages(rank))


def _seconds(rows: int, inner: int, columns: int, rates: Device) -> float:
    """Of (rows, inner) @ (inner, columns), with two bytes a number."""
    numbers = rows * inner + inner * columns + rows * columns
    return max(2 * rows * inner * columns / rates.flops, 2 * numbers / rates.bandwidth)
