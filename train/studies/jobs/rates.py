"""Learning rates of a study: a grid of two values a decade, and searches for the best of them.

A loss is a function of the rate, and of the steps where a search has short runs. One that is not
finite counts as infinite.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

GRID = tuple(float(f"{digit}e{power}") for power in range(-6, 2) for digit in (1, 3))
"""The rates of :func:`climb`."""
_WIDE = tuple(float(f"{digit}e{power}") for power in range(-8, 4) for digit in (1, 3))
"""The rates of :func:`halve`."""
_AROUND = 2
"""Rates on either side of the first one: a decade."""


class Choice(NamedTuple):
    """A rate, and whether none beyond it was tried, or could be."""

    rate: float
    at_edge: bool


class NoFiniteLossError(ValueError):
    """No rate that was tried gave a finite loss."""

    def __init__(self, rates: Iterable[float]) -> None:
        tried = sorted(rates)
        super().__init__(
            f"no learning rate from {tried[0]:.0e} to {tried[-1]:.0e} gave a finite loss"
        )


def climb(loss: Callable[[float], float], start: float) -> float:
    """The value of the grid that is better than both its neighbours, found uphill from ``start``.

    Raises:
        ValueError: when the best is at an end of the grid.
    """
    best = _nearest(GRID, start)
    while True:
        if best in (0, len(GRID) - 1):
            raise ValueError(f"the best learning rate {GRID[best]} is at an end of the grid")
        found = min((best, best + 1, best - 1), key=lambda i: loss(GRID[i]))
        if found == best:
            return GRID[best]
        best = found


def halve(
    loss: Callable[[float, int], float],
    start: float,
    short: int,
    steps: int,
    grid: Sequence[float] = _WIDE,
) -> Choice:
    """Successive halving: many rates for a few steps, the best and its neighbours for all steps.

    The first rates are the value next to ``start`` and a decade on either side of it. While the
    best of the short runs stands at an edge of them, the next two rates beyond it are tried. The
    best then runs for all steps, and so do its neighbours; while a neighbour is better, its own
    neighbour follows.

    Args:
        loss: of a rate after a number of steps.
        start: the published rate.
        short: steps of the short runs; as many as ``steps`` make no difference between the two.
        steps: of the long ones.
        grid: of rates, ascending.

    Returns:
        the rate of least loss after all steps. It is at an edge where the grid ends, not otherwise.

    Raises:
        NoFiniteLossError: when every loss is infinite or NaN.
    """
    last = len(grid) - 1

    @functools.cache
    def after(index: int, count: int) -> float:
        found = loss(grid[index], count)
        return found if math.isfinite(found) else math.inf

    middle = _nearest(grid, start)
    low, high = max(0, middle - _AROUND), min(last, middle + _AROUND)
    best = _best(range(low, high + 1), middle, lambda i: after(i, short))
    while best in (low, high) or after(best, short) == math.inf:
        before = low, high
        if best == high and after(best, short) < math.inf:
            high = min(last, high + _AROUND)
        else:  # also where no loss is finite: the rates are too high
            low = max(0, low - _AROUND)
        if (low, high) == before:
            break
        best = _best(range(low, high + 1), best, lambda i: after(i, short))
    while True:
        near = [index for index in (best - 1, best + 1) if 0 <= index <= last]
        found = _best([best, *near], best, lambda i: after(i, steps))
        if found == best:
            break
        best = found
    if after(best, steps) == math.inf:
        raise NoFiniteLossError(grid[low : high + 1])
    return Choice(grid[best], best in (0, last))


def best_of(loss: Callable[[float], float], rates: Sequence[float]) -> float:
    """The rate of least loss among those given.

    Raises:
        NoFiniteLossError: when every loss is infinite or NaN.
    """
    losses = {rate: loss(rate) for rate in rates}
    finite = {rate: found for rate, found in losses.items() if math.isfinite(found)}
    if not finite:
        raise NoFiniteLossError(rates)
    return min(finite, key=lambda rate: finite[rate])


def is_at_edge(rate: float, tried: Iterable[float]) -> bool:
    """Whether no smaller or no larger rate was tried."""
    return rate in (min(rates := [rate, *tried]), max(rates))


def _nearest(grid: Sequence[float], rate: float) -> int:
    return min(range(len(grid)), key=lambda i: abs(math.log(grid[i] / rate)))


def _best(indices: Iterable[int], middle: int, loss: Callable[[int], float]) -> int:
    """The index of least loss; of equal ones the next to ``middle``, and the lower of two."""
    return min(indices, key=lambda i: (loss(i), abs(i - middle), i))
