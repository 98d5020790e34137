"""Which modes of a network are contracted together, and in which order: by their sizes alone.

Consecutive small modes go together, by the Kronecker product of their factors. A matmul with a
matrix of a few dozen rows takes the time of reading and writing the tensor, and two such matrices
take it twice.
"""

import math
from collections.abc import Sequence

NARROW = 64
"""The most rows of a Kronecker product, and of a factor that takes its d into itself."""


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
