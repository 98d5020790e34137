"""Which modes of a network are contracted together, and in which order: by their sizes alone.

Consecutive small modes go together, by the Kronecker product of their factors. A matmul with a
matrix of a few dozen rows takes the time of reading and writing the tensor, and two such matrices
take it twice.
"""

import math
from collections.abc import Sequence

NARROW = 64
"""The most rows of a Kronecker product, and of a factor that takes its d into itself."""
WIDEST_HALF = 128
"""The most rows of one of the two groups that a Pallas kernel contracts at once."""


def groups(ranks: Sequence[int], modes: Sequence[int]) -> list[tuple[int, int]]:
    """Which consecutive modes are contracted together: (start, stop), from the first mode on.

    Example:
        >>> groups((4096, 8, 8, 8, 8), (4096, 8, 8, 8, 8))
        [(0, 1), (1, 3), (3, 5)]
    """
    found: list[tuple[int, int]] = []
    for i, sizes in enumerate(zip(ranks, modes, strict=True)):
        if found:
            start, stop = found[-1]
            width = max(math.prod(ranks[start:stop]), math.prod(modes[start:stop]))
            if width * max(sizes) <= NARROW:
                found[-1] = (start, i + 1)
                continue
        found.append((i, i + 1))
    return found


def pairs(ranks: Sequence[int], modes: Sequence[int]) -> list[tuple[int, int]]:
    """(rank, mode) of each of the :func:`groups`, multiplied out."""
    return [
        (math.prod(ranks[start:stop]), math.prod(modes[start:stop]))
        for start, stop in groups(ranks, modes)
    ]


def halves(narrow: Sequence[tuple[int, int]], last: int | None = None) -> int | None:
    """Where (rank, mode) of the :func:`groups` of a side are split in two for a Pallas kernel.

    Args:
        narrow: of a side.
        last: the rank of the second half; None for any.

    Returns:
        How many groups the first half has, such that the larger half is the smallest; None when a
        group is wide or there are no such halves.

    Example:
        >>> halves([(2, 2), (43, 43), (8, 8), (16, 16)]), halves([(256, 256), (8, 8)])
        (2, None)
    """
    if any(max(pair) > NARROW for pair in narrow):
        return None
    found = []
    for i in range(1, len(narrow)):
        ranks, modes = zip(multiplied(narrow[:i]), multiplied(narrow[i:]), strict=True)
        if max(*ranks, *modes) <= WIDEST_HALF and last in (None, ranks[1]):
            found.append((max(*ranks, *modes), i))
    return min(found)[1] if found else None


def multiplied(narrow: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(rank, mode) of several groups together."""
    return math.prod(rank for rank, _ in narrow), math.prod(mode for _, mode in narrow)


def contraction_order(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The axes of a tensor in the order in which they are contracted, by (rank, mode) of each.

    The least enlarging comes first, and of equal ones the smaller.
    """

    def cost(axis: int) -> tuple[float, int, int]:
        rank, mode = pairs[axis]
        return mode / rank, mode, -axis

    return sorted(range(len(pairs)), key=cost)


def ends_with_input(ranks: Sequence[int], modes: Sequence[int], split: int) -> bool:
    """Whether the input side, the first ``split`` modes, is one wide mode and contracted last."""
    return split == 1 and ranks[0] > NARROW and contraction_order(pairs(ranks, modes))[-1] == 0


def ends_with_output(ranks: Sequence[int], modes: Sequence[int], split: int) -> bool:
    """Whether the output side, all modes from ``split`` on, is one wide mode, contracted last."""
    last = len(ranks) - 1
    wide = 1 < split == last and ranks[-1] > NARROW
    return wide and contraction_order(found := pairs(ranks, modes))[-1] == len(found) - 1
