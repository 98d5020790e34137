"""What the runs of a study come to: for each variant and task a summary, without JAX."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..jobs.rates import is_at_edge
from ..results import Failure, Result, finished, rate_text
from ..schema import FIRST_SEED


class Spread(NamedTuple):
    """Mean and sample standard deviation; no deviation of one value."""

    mean: float
    deviation: float | None

    def __str__(self) -> str:
        if not math.isfinite(self.mean):
            return "not finite"
        return f"{self.mean:.4f}" + ("" if self.deviation is None else f" ± {self.deviation:.4f}")


class Summary(NamedTuple):
    """A variant on a task, at its chosen rate.

    Attributes:
        variant: its name.
        task: likewise.
        targets: the patterns of the layers that it adapts.
        trained: trainable parameters.
        learning_rate: the one chosen; None of the base.
        at_edge: whether no smaller or no larger rate was tried.
        validation: loss over the seeds; infinite where one is not finite.
        test: likewise.
        tests: the test loss of each seed.
        seconds_per_step: the median over the seeds.
        peak_bytes: the most of them.
        devices: that they ran on.
    """

    variant: str
    task: str
    targets: str
    trained: int
    learning_rate: float | None
    at_edge: bool
    validation: Spread
    test: Spread
    tests: dict[int, float]
    seconds_per_step: float
    peak_bytes: int
    devices: tuple[str, ...]


def spread(values: Sequence[float]) -> Spread:
    """Mean and deviation of some values, which may be infinite."""
    if not all(map(math.isfinite, values)):
        return Spread(math.inf, None)
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def chosen(runs: Sequence[Result]) -> list[Result]:
    """The runs at the learning rate whose validation loss is least with the first seed.

    Args:
        runs: of one variant on one task, of the same length.
    """
    swept = [run for run in runs if run.seed == FIRST_SEED]
    if not swept:
        return []
    rate = min(swept, key=lambda run: run.validation).learning_rate
    return [run for run in runs if run.learning_rate == rate]


def summarize(runs: Iterable[Result], steps: int, seeds: int | None = None) -> list[Summary]:
    """The summaries of all variants and tasks that have runs of all steps, in their order.

    Args:
        runs: of a study.
        steps: of a long run; the base has none.
        seeds: the first so many count; None takes all that are there.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for run in runs:
        if run.steps == 0 or finished([run], steps):
            groups.setdefault((run.variant, run.task), []).append(run)
    found = []
    for group in groups.values():
        best = [run for run in chosen(group) if seeds is None or run.seed < FIRST_SEED + seeds]
        if best and math.isfinite(best[0].validation):
            found.append(_summary(group, best))
    return found


def _summary(group: Sequence[Result], best: Sequence[Result]) -> Summary:
    first = min(best, key=lambda run: run.seed)
    tried = [run.learning_rate for run in group if run.seed == FIRST_SEED]
    times = [run.seconds_per_step for run in best if run.seconds_per_step]
    return Summary(
        first.variant,
        first.task,
        first.targets,
        first.trained,
        first.learning_rate or None,
        bool(first.learning_rate) and is_at_edge(first.learning_rate, tried),
        spread([run.validation for run in best]),
        spread([run.test for run in best]),
        {run.seed: run.test for run in sorted(best, key=lambda run: run.seed)},
        statistics.median(times) if times else 0.0,
        max(run.peak_bytes for run in best),
        tuple(sorted({run.device for run in best})),
    )


class Unfinished(NamedTuple):
    """A variant on a task that has runs but no summary, or fewer seeds than asked for."""

    variant: str
    task: str
    reason: str


def unfinished(
    runs: Sequence[Result], failures: Sequence[Failure], found: Sequence[Summary], seeds: int
) -> list[Unfinished]:
    """What failed, and what was not run to its end."""
    rows = {(each.variant, each.task): each.error for each in failures}
    whole = {(each.variant, each.task) for each in found}
    for run in runs:
        if (run.variant, run.task) not in whole:
            rows.setdefault((run.variant, run.task), "not run to its end")
    for each in found:
        missing = seeds - len(each.tests)
        if each.learning_rate is not None and missing > 0:
            rows.setdefault((each.variant, each.task), f"{missing} of {seeds} seeds not run yet")
    for run in runs:
        if run.note and run.seed != FIRST_SEED:
            text = f"seed {run.seed} at rate {rate_text(run.learning_rate)}: {run.note}"
            rows.setdefault((run.variant, run.task), text)
    return [Unfinished(*pair, text) for pair, text in rows.items()]


class Comparison(NamedTuple):
    """Wilcoxon's signed-rank test of a variant against the baseline, over seeds and tasks.

    The p values are two-sided, and one-sided that the variant's test losses are lower. They are
    None where there are no pairs, or all are equal. ``difference`` is the mean over the pairs of
    variant less baseline, and ``least`` the smallest two-sided p that so many pairs can have.
    """

    variant: str
    baseline: str
    pairs: int
    difference: float | None
    two_sided: float | None
    lower: float | None
    least: float | None


def compare(found: Sequence[Summary], baseline: str) -> list[Comparison]:
    """Each variant against the baseline, on the tasks and seeds that both have.

    Raises:
        ImportError: without scipy.
    """
    try:
        from ...evaluation.significance import signed_rank
    except ImportError as error:
        raise ImportError(
            f"Wilcoxon's test needs pip install 'tera-jax[analysis]' ({error})"
        ) from error
    losses: dict[str, dict[tuple[str, int], float]] = {}
    for each in found:
        if each.learning_rate is not None:
            of = losses.setdefault(each.variant, {})
            of |= {(each.task, seed): loss for seed, loss in each.tests.items()}
    theirs = losses.get(baseline, {})
    result = []
    for variant, ours in losses.items():
        if variant == baseline:
            continue
        keys = [key for key in ours if key in theirs]
        pairs = [(theirs[key], ours[key]) for key in keys]
        finite = [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
        # Rounded, so that ties remain ties.
        gains = [round(a - b, 12) for a, b in finite]
        two_sided, lower = signed_rank(gains) if any(gains) else (None, None)
        mean = -statistics.fmean(gains) if gains else None
        least = min(1.0, 2.0 ** (1 - len(gains))) if gains else None
        result.append(Comparison(variant, baseline, len(gains), mean, two_sided, lower, least))
    return result
