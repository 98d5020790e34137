"""Spearman's correlation of tuned losses with what is known of schemes before, or by short runs."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from scipy import stats

from benchmarks.short_runs import TASKS

UNSEEN = "Commonsense"
"""The task that the rules were not made from."""
TARGET = 0.8
"""Of the correlation."""
ENOUGH = 12
"""Schemes of the target."""


class Known(NamedTuple):
    """A scheme, what is known of it before training, and its loss.

    Attributes:
        variant: its name in the results.
        planned: whether the planner could propose it: no other field differs from its default.
        order: by the rules; the smaller the better.
        trained: trainable parameters.
        zeroed: the mean length of the d that starts at zero.
        losses: of each task.
        probes: the validation loss of a short run on each task, where there is one.
        is_held_out: whether the rules were made without its runs.
    """

    variant: str
    planned: bool
    order: tuple[object, ...]
    trained: int
    zeroed: float
    losses: dict[str, float]
    probes: Mapping[str, float] = MappingProxyType({})
    is_held_out: bool = False


class Correlation(NamedTuple):
    """Spearman's, of one task over so many schemes; of short runs where all of these have one."""

    schemes: str
    task: str
    number: int
    rule: float
    trained: float
    zeroed: float
    probe: float | None = None


def correlations(schemes: Sequence[Known]) -> list[Correlation]:
    """Of all schemes, of those that the planner could propose, and of those held out, by task."""
    rows = []
    for name, task, own in _parts(schemes):
        losses = [each.losses[task] for each in own]
        orders = sorted({each.order for each in own})
        predicted: dict[str, list[float]] = {
            "rule": [orders.index(each.order) for each in own],
            "trained": [-each.trained for each in own],
            "zeroed": [-each.zeroed for each in own],
        }
        if all(task in each.probes for each in own):
            predicted["probe"] = [each.probes[task] for each in own]
        found = {key: _spearman(values, losses) for key, values in predicted.items()}
        rows.append(Correlation(name, task, len(own), **found))
    return rows


def _parts(schemes: Sequence[Known]) -> Iterator[tuple[str, str, list[Known]]]:
    parts = {
        "all": schemes,
        "planned": [each for each in schemes if each.planned],
        "held out": [each for each in schemes if each.is_held_out],
    }
    for name, part in parts.items():
        for task in dict.fromkeys(task for each in part for task in each.losses):
            yield name, task, [each for each in part if task in each.losses]


def probed(schemes: Sequence[Known], losses: Mapping[tuple[str, str], float]) -> list[Known]:
    """The schemes that have a tuned loss and a short run on both tasks, with these alone.

    Args:
        schemes: from :func:`known`.
        losses: of short runs, by scheme and task.
    """
    found = []
    for each in tuned(schemes):
        own = {task: losses[each.variant, task] for task in TASKS if (each.variant, task) in losses}
        if len(own) == len(TASKS):
            both = {task: each.losses[task] for task in TASKS}
            found.append(each._replace(losses=both, probes=own))
    return found


def tuned(schemes: Sequence[Known]) -> list[Known]:
    """The schemes that have a loss on both tasks; those that could be proposed come first."""
    both = [each for each in schemes if {*TASKS} <= each.losses.keys()]
    return sorted(both, key=lambda each: not each.planned)


def _spearman(predicted: Sequence[float], losses: Sequence[float]) -> float:
    """0 where the predictor tells no two apart."""
    if len({*predicted}) == 1:
        return 0.0
    return float(stats.spearmanr(predicted, losses).statistic)


def not_fitted(rows: Sequence[Correlation]) -> list[Correlation]:
    """Those that the rules were not made from: enough schemes on both tasks, else one task."""
    held_out = [row for row in rows if row.schemes == "held out" and row.number >= ENOUGH]
    enough = {*TASKS} <= {row.task for row in held_out}
    return held_out if enough else [row for row in rows if row.task == UNSEEN]


def predicts(rows: Sequence[Correlation]) -> bool:
    """Whether the rules reach the target and beat both trivial predictors on what is unseen."""
    own = not_fitted(rows)
    return bool(own) and all(
        row.rule >= TARGET and row.rule > max(row.trained, row.zeroed) for row in own
    )


def probes_predict(rows: Sequence[Correlation]) -> bool:
    """Whether short runs reach the target on enough schemes, above both trivial predictors."""
    own = [row for row in rows if row.schemes == "all"]
    return {row.task for row in own} == {*TASKS} and all(
        row.number >= ENOUGH
        and row.probe is not None
        and row.probe >= TARGET
        and row.probe > max(row.trained, row.zeroed)
        for row in own
    )
