"""The order of schemes without data: rules that come from runs on SmolLM2, and may not hold here.

From the first that tells two schemes apart to the last:

1. Orthogonal and identity factors before Gaussian ones.
2. The longest d of each kernel starts at zero, before any other.
3. Target layers in the order of :data:`train.planning.candidates.PLACEMENTS`.
4. The longer the d that starts at zero, on average over the kernels, the better.
5. The more trainable parameters, the better.

docs/planning.md has what these rules are worth.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from .candidates import INITS, PLACEMENTS, Candidate

_GAUSSIAN = ("normal", "uniform")


def key(candidate: Candidate) -> tuple[Any, ...]:
    """By which candidates are sorted, the best first."""
    layout = candidate.layout
    return order(
        candidate.init,
        candidate.is_longest_zeroed,
        layout.targets,
        candidate.zeroed,
        layout.trained,
    )


def order(
    init: str, longest: bool, targets: Sequence[str], zeroed: float, trained: int
) -> tuple[Any, ...]:
    """The rules for a scheme that is described by these facts."""
    known = [frozenset(each) for each in PLACEMENTS]
    own = frozenset(targets)
    place = known.index(own) if own in known else len(known)
    return init in _GAUSSIAN, not longest, place, -zeroed, -trained


def ranked(given: Iterable[Candidate]) -> list[Candidate]:
    """All candidates, the best first; equal ones by init and label."""
    return sorted(given, key=lambda each: (key(each), INITS.index(each.init), each.layout.label))


def select(given: Sequence[Candidate], count: int) -> list[int]:
    """Places in the order of candidates that are unlike: the best of each placement in turn.

    Args:
        given: from :func:`ranked`.
        count: how many at most.

    Returns:
        The places, ascending. Of one placement a scheme comes with its best kind of factors first,
        and with the others when no other scheme is left.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, each in enumerate(given):
        groups.setdefault(each.layout.targets, []).append(place)
    queues = [sorted(group, key=lambda i: INITS.index(given[i].init)) for group in groups.values()]
    turns = [
        queue[i]
        for i in range(max(map(len, queues), default=0))
        for queue in queues
        if i < len(queue)
    ]
    return sorted(turns[:count])
