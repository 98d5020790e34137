"""What short runs tell of a scheme."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from ..config import flag
from ..studies.reports.summaries import Spread
from .candidates import METHOD


class Probe(NamedTuple):
    """What the longest runs of a scheme gave.

    Attributes:
        loss: of the validation part, in nats a token, over the seeds; the mean of the tasks.
        steps: of a run.
        seeds: how many.
        rates: the best learning rate on each task.
    """

    loss: Spread
    steps: int
    seeds: int
    rates: dict[str, float]


def order(probes: Mapping[str, Probe], name: str) -> tuple[float, float]:
    """By which variants are sorted: those of longer runs first, then by loss; the others last."""
    probe = probes.get(name)
    return (math.inf, 0.0) if probe is None else (-probe.steps, probe.loss.mean)


def usual_rate(recipe: str = "sft") -> float:
    """The learning rate of a recipe, which runs take where none is given.

    Args:
        recipe: its name, or a file.
    """
    return float(flag.recipe(recipe, METHOD).optim.learning_rate)
