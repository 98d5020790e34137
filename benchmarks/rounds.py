"""The clock of training steps, the same for every library: many in a row, none waited for."""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

ROUNDS = 3


class Timing(NamedTuple):
    """Of the median round: real tokens a second, and the mean of its steps."""

    tokens_per_second: float
    step_seconds: float


def timed(advance: Callable[[int], float], tokens: Sequence[int], done: int, steps: int) -> Timing:
    """Time ``ROUNDS`` times ``steps`` steps.

    Args:
        advance: takes so many further steps, and returns their seconds.
        tokens: the real tokens of each batch; the batches are fed in turn.
        done: steps that were taken before.
        steps: of a round.
    """
    seconds = statistics.median(advance(steps) for _ in range(ROUNDS))
    fed = range(done, done + ROUNDS * steps)
    real = sum(tokens[index % len(tokens)] for index in fed) / ROUNDS
    return Timing(real / seconds, seconds / steps)
