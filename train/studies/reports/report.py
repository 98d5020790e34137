"""The report of a study, from its results alone: report.md, report.json and the Pareto files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from tera_jax import atomic, json_files

from .. import identity
from ..loop import RESULTS
from ..results import Results, rate_text
from ..variants import BASE
from . import pareto, summaries
from .summaries import Comparison, Summary, Unfinished

_DEFAULT_BASELINE = "lora"


class Report(NamedTuple):
    """All that is written.

    Attributes:
        study: what ``study.json`` holds.
        found: a summary of each variant and task.
        left: what failed or was not run to its end.
        compared: with the baseline; None without scipy.
        notes: what could not be made, in one line each.
    """

    study: Mapping[str, Any]
    found: tuple[Summary, ...]
    left: tuple[Unfinished, ...]
    compared: tuple[Comparison, ...] | None
    notes: tuple[str, ...]


def write(output: Path, baseline: str | None = None) -> Report:
    """Make the report of the study in a directory, and write it there.

    Args:
        output: the directory.
        baseline: that the others are compared with; None takes that of the study.

    Raises:
        FileNotFoundError: when there is no study.
        ValueError: when a file of it is damaged, or there is no such baseline.
    """
    report = make(output, baseline)
    notes = list(report.notes)
    atomic.write_text(output / pareto.CSV, pareto.comma_separated(report.found))
    try:
        pareto.draw(report.found, output)
    except ImportError as error:
        notes.append(str(error))
    report = report._replace(notes=tuple(notes))
    atomic.write_text(output / "report.md", markdown(report) + "\n")
    atomic.write_json(output / "report.json", as_json(report))
    return report


def make(output: Path, baseline: str | None = None) -> Report:
    """See :func:`write`; nothing is written.

    Raises:
        FileNotFoundError: likewise.
        ValueError: likewise.
    """
    study = identity.read(output)
    if study is None:
        raise FileNotFoundError(
            f"{output} holds no {identity.FILE}; name the --output of a study that was begun"
        )
    steps = study["settings"]["steps"]
    results = Results(output / RESULTS, steps)
    found = _in_order(summaries.summarize(results.runs, steps, study["seeds"]), study)
    left = summaries.unfinished(results.runs, results.failures, found, study["seeds"])
    baseline = _baseline(baseline or study["baseline"], study["methods"])
    notes = []
    compared: list[Comparison] | None = None
    try:
        compared = summaries.compare(found, baseline)
    except ImportError as error:
        notes.append(str(error))
    return Report(
        study,
        tuple(found),
        tuple(left),
        None if compared is None else tuple(compared),
        tuple(notes),
    )


def _baseline(given: str | None, methods: Mapping[str, Any]) -> str:
    """The one given, or the first LoRA, or the first of all."""
    if given is not None and given not in methods:
        raise ValueError(f"--baseline={given} is none of {', '.join(methods)}")
    usual = [name for name, of in methods.items() if of["method"]["name"] == _DEFAULT_BASELINE]
    return given or [*usual, *methods][0]


def _in_order(found: Sequence[Summary], study: Mapping[str, Any]) -> list[Summary]:
    """By task and method, as the study has them."""
    tasks, methods = [*study["tasks"]], [BASE, *study["methods"]]
    known = [each for each in found if each.task in tasks and each.variant in methods]
    return sorted(known, key=lambda e: (tasks.index(e.task), methods.index(e.variant)))


def markdown(report: Report) -> str:
    """The report as a page."""
    parts = ["# Methods compared", _facts(report)]
    for task, group in pareto.by_task(report.found).items():
        parts += [f"## {task}", _table(group)]
    if any(each.at_edge for each in report.found):
        parts.append("A rate marked with * is the smallest or the largest that was tried.")
    parts += ["## Not dominated", _front(report.found)]
    if report.compared:
        parts += [
            f"## Against {report.compared[0].baseline}: Wilcoxon signed-rank test",
            comparisons(report.compared),
            "A pair is the test loss of both methods on one task with one seed. Seeds of one task "
            "share its records, so that the pairs are not independent. The last column is the "
            "smallest two-sided p that so many pairs can have.",
        ]
    if report.left:
        rows = [(each.task, each.variant, each.reason) for each in report.left]
        parts += ["## Failed or unfinished", grid(("task", "method", "reason"), rows, 3)]
    return "\n\n".join([*parts, *report.notes])


def _facts(report: Report) -> str:
    study = report.study
    devices = sorted({device for each in report.found for device in each.devices})
    programs = ", ".join(f"{name} {version}" for name, version in study["programs"].items())
    model = study["settings"]["model"]
    lines = [
        f"- command: `{study['command']}`",
        f"- base: {study['model']}, {model['dtype']}, quantize {model['quantize']}, "
        f"fingerprint {study['base'] or 'not known yet'}",
        f"- runs: {study['settings']['steps']} steps, {study['seeds']} seeds at the chosen rate; "
        "losses in nats a token, mean ± sample standard deviation over the seeds",
        f"- device: {', '.join(devices) or 'none yet'}",
        f"- versions: {programs}",
    ]
    for name, task in study["tasks"].items():
        records = ", ".join(f"{part} {each}" for part, each in task["records"].items())
        lines.append(f"- records of {name}: {records}")
    return "\n".join(lines)


_HEAD = (
    "method",
    "targets",
    "trainable",
    "rate",
    "validation loss",
    "test loss",
    "seeds",
    "ms a step",
    "peak GiB",
)


def _table(group: Sequence[Summary]) -> str:
    rows = []
    for each in group:
        rate = "-" if each.learning_rate is None else rate_text(each.learning_rate)
        rows.append(
            (
                f"`{each.variant}`",
                each.targets or "-",
                f"{each.trained:,}",
                rate + "*" * each.at_edge,
                str(each.validation),
                str(each.test),
                str(len(each.tests)),
                f"{each.seconds_per_step * 1e3:.1f}" if each.seconds_per_step else "-",
                f"{each.peak_bytes / 2**30:.2f}" if each.peak_bytes else "-",
            )
        )
    return grid(_HEAD, rows, 2)


def _front(found: Sequence[Summary]) -> str:
    rows = [
        (task, f"`{each.variant}`", f"{each.trained:,}", str(each.test))
        for task, group in pareto.by_task(found).items()
        for each in pareto.front(group)
    ]
    return grid(("task", "method", "trainable", "test loss"), rows, 2)


def comparisons(compared: Sequence[Comparison]) -> str:
    """A table of Markdown of what :func:`train.studies.reports.summaries.compare` found."""
    rows = [
        (
            f"`{each.variant}`",
            str(each.pairs),
            "-" if each.difference is None else f"{each.difference:+.4f}",
            *("-" if p is None else f"{p:.3g}" for p in (each.two_sided, each.lower, each.least)),
        )
        for each in compared
    ]
    head = ("method", "pairs", "loss less baseline's", "p (two-sided)", "p (lower)", "smallest p")
    return grid(head, rows, 1)


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> str:
    """A table of Markdown: after so many columns come numbers."""
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def as_json(report: Report) -> dict[str, Any]:
    """The report's figures, unrounded; null for a number that is not finite."""
    content = {
        "study": report.study,
        "summaries": report.found,
        "not_dominated": {
            task: [each.variant for each in pareto.front(group)]
            for task, group in pareto.by_task(report.found).items()
        },
        "comparisons": report.compared,
        "unfinished": report.left,
        "notes": report.notes,
    }
    return cast(dict[str, Any], json_files.finite(content))
