"""The tables of the third task: means over sub-tasks, spreads over seeds, and Wilcoxon's test."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from train.studies.reports import report, summaries
from train.studies.reports.summaries import Spread, Summary, spread
from train.studies.results import rate_text
from train.studies.variants import BASE

from .rows import Row


class Pair(NamedTuple):
    """Two variants to compare; the second is the baseline."""

    first: str
    second: str


_HEAD = (
    "method",
    "trainable",
    "rate",
    "seeds",
    "NLL",
    "accuracy",
    "accuracy by length",
    "NLL of the texts",
)


def markdown(
    rows: Sequence[Row], order: Sequence[str], baseline: str, pairs: Sequence[Pair]
) -> str:
    """All tables.

    Args:
        rows: of one set of records, base and steps.
        order: of the variants; others come last.
        baseline: that every variant is compared with.
        pairs: further comparisons.
    """
    steps = max((row.steps for row in rows), default=0)
    found = summaries.summarize([each for row in rows for each in row.by_task()], steps)
    best = _chosen(rows, found, order)
    parts = [_means(best), "NLL of each sub-task, mean over the seeds:", _by_task(best, "nll")]
    parts += ["Accuracy of each sub-task, in percent:", _by_task(best, "accuracy")]
    try:
        for title, compared in _compared(found, [*best], baseline, pairs):
            parts += [title, report.comparisons(compared)]
    except ImportError as error:
        parts.append(str(error))
    return "\n\n".join(parts)


def _chosen(
    rows: Sequence[Row], found: Sequence[Summary], order: Sequence[str]
) -> dict[str, list[Row]]:
    """The runs of each variant at its chosen rate, by seed."""
    rates = {each.variant: each.learning_rate or 0.0 for each in found}
    names = [*order, *(name for name in rates if name not in order)]
    return {
        name: sorted(
            (row for row in rows if (row.variant, row.learning_rate) == (name, rates[name])),
            key=lambda row: row.seed,
        )
        for name in names
        if name in rates
    }


def _means(best: Mapping[str, Sequence[Row]]) -> str:
    lines = []
    for name, runs in best.items():
        nll, accuracy, by_length, text = (
            spread([statistics.fmean(getattr(run, score).values()) for run in runs])
            for score in ("nll", "accuracy", "by_length", "text_nll")
        )
        rate = runs[0].learning_rate
        lines.append(
            (
                name if name == BASE else f"`{name}`",
                f"{runs[0].trained:,}",
                rate_text(rate) if rate else "",
                str(len(runs)),
                str(nll),
                _percent(accuracy),
                _percent(by_length),
                str(text),
            )
        )
    return report.grid(_HEAD, lines, 1)


def _by_task(best: Mapping[str, Sequence[Row]], score: str) -> str:
    tasks = list(dict.fromkeys(task for runs in best.values() for task in runs[0].nll))
    lines = []
    for name, runs in best.items():
        values = [spread([getattr(run, score)[task] for run in runs]) for task in tasks]
        alone = [each._replace(deviation=None) for each in values]
        cells = map(_percent, alone) if score == "accuracy" else map(str, alone)
        lines.append((name if name == BASE else f"`{name}`", *cells))
    return report.grid(("method", *tasks), lines, 1)


def _percent(share: Spread) -> str:
    text = f"{100 * share.mean:.2f}"
    return text if share.deviation is None else f"{text} ± {100 * share.deviation:.2f}"


def _compared(
    found: Sequence[Summary], names: Sequence[str], baseline: str, pairs: Sequence[Pair]
) -> list[tuple[str, list[summaries.Comparison]]]:
    """Comparisons of NLL over pairs of sub-task and seed, with a title for each baseline."""
    groups: dict[str, set[str]] = {baseline: {*names}}
    for pair in pairs:
        groups.setdefault(pair.second, set()).add(pair.first)
    result = []
    for second, firsts in groups.items():
        own = [each for each in found if each.variant in firsts | {second}]
        if second not in names or not (compared := summaries.compare(own, second)):
            continue
        compared = sorted(compared, key=lambda each: names.index(each.variant))
        result.append((f"Against `{second}`, over pairs of sub-task and seed:", compared))
    return result
