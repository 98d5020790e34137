"""The searches of a learning rate, on losses that are written down."""

import math

import pytest

from train.studies.jobs.rates import (
    GRID,
    NoFiniteLossError,
    best_of,
    climb,
    halve,
    is_at_edge,
)

WIDE = tuple(float(f"{digit}e{power}") for power in range(-8, 4) for digit in (1, 3))


class Asked:
    """A loss that is least at one rate, and what it was asked."""

    def __init__(self, best, short_best=None, limit=math.inf):
        self.calls = []
        self._best = {True: short_best or best, False: best}
        self._limit = limit

    def __call__(self, rate, steps):
        assert (rate, steps) not in self.calls  # nothing is run twice
        self.calls.append((rate, steps))
        if rate > self._limit:
            return math.nan
        return abs(math.log(rate / self._best[steps < 100]))


@pytest.mark.parametrize("best", [1e-6, 3e-4, 1e-3, 1e-2, 3e-1, 1e1])
def test_halving_finds_the_best_wherever_it_starts(best):
    asked = Asked(best)
    assert halve(asked, 1e-2, 50, 100) == (best, False)
    long = sorted(rate for rate, steps in asked.calls if steps == 100)
    place = WIDE.index(best)
    assert long == list(WIDE[place - 1 : place + 2])  # both neighbours are worse after all steps


def test_halving_begins_with_a_decade_on_either_side():
    asked = Asked(1e-3)
    halve(asked, 1.1e-3, 50, 100)
    assert sorted(rate for rate, steps in asked.calls if steps == 50) == [
        1e-4,
        3e-4,
        1e-3,
        3e-3,
        1e-2,
    ]


def test_the_long_runs_decide():
    asked = Asked(best=1e-1, short_best=1e-3)
    assert halve(asked, 1e-3, 50, 100) == (1e-1, False)
    assert (3e-1, 100) in asked.calls
    assert halve(Asked(best=1e-3, short_best=1e-3), 1e-3, 50, 100).rate == 1e-3


def test_an_edge_of_the_grid_is_said():
    assert halve(Asked(1e5), 1e-2, 50, 100) == (3e3, True)
    assert halve(Asked(1e-12), 1e-2, 50, 100) == (1e-8, True)
    assert halve(Asked(1e-2), 1e-2, 50, 100, grid=(3e-3, 1e-2)) == (1e-2, True)


def test_rates_that_diverge_are_left():
    assert halve(Asked(1e-3, limit=3e-3), 1e-2, 50, 100) == (1e-3, False)
    assert halve(Asked(1e1, limit=3e-3), 1e-2, 50, 100) == (3e-3, False)
    asked = Asked(1e-7, limit=1e-5)  # nothing that is tried first is finite
    assert halve(asked, 1e-2, 50, 100) == (1e-7, False)


def test_no_finite_loss_is_an_error():
    with pytest.raises(NoFiniteLossError, match="no learning rate from 1e-08 to 1e-01 gave"):
        halve(Asked(1.0, limit=0.0), 1e-2, 50, 100)
    with pytest.raises(NoFiniteLossError, match="from 1e-03 to 1e-01 gave a finite loss"):
        best_of(lambda rate: math.inf, [1e-1, 1e-3])


def test_short_runs_as_long_as_the_long_ones_are_not_run_again():
    asked = Asked(1e-2)
    assert halve(asked, 1e-2, 100, 100) == (1e-2, False)
    assert len(asked.calls) == 5


def test_a_list_is_tried_as_it_is():
    losses = {1e-3: 2.0, 1e-2: 1.0, 1e-1: math.nan}
    assert best_of(losses.__getitem__, list(losses)) == 1e-2


def test_the_edge_of_what_was_tried():
    assert is_at_edge(1e-2, [1e-3, 1e-2])
    assert is_at_edge(1e-2, [1e-1, 1e-2])
    assert is_at_edge(1e-2, [])
    assert not is_at_edge(1e-2, [1e-3, 1e-1])


@pytest.mark.parametrize("best", [GRID[1], 1e-3, 3e-2, GRID[-2]])
@pytest.mark.parametrize("start", [1e-4, 1e-1])
def test_the_climb_ends_where_both_neighbours_are_worse(best, start):
    assert climb(lambda rate: abs(math.log(rate / best)), start) == best


def test_a_climb_that_leaves_the_grid_is_an_error():
    with pytest.raises(ValueError, match=r"best learning rate 30\.0 is at an end of the grid"):
        climb(lambda rate: -rate, 1e-1)
