"""What evaluations left on disk, and the tables of the TeRA paper that it goes into."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tera_jax import json_files
from tera_jax.json_files import Key

from .. import command


class Column(NamedTuple):
    """A metric of a task under the paper's heading."""

    heading: str
    task: str
    metric: str


class Layout(NamedTuple):
    """One of the paper's tables; ``average`` tells whether it has that column."""

    title: str
    columns: tuple[Column, ...]
    average: bool


_COMMONSENSE = (
    Column("BoolQ", "boolq", "accuracy"),
    Column("PIQA", "piqa", "accuracy"),
    Column("SIQA", "social_i_qa", "accuracy"),
    Column("ARC-c", "ARC-Challenge", "accuracy"),
    Column("ARC-e", "ARC-Easy", "accuracy"),
    Column("OBQA", "openbookqa", "accuracy"),
    Column("HellaS", "hellaswag", "accuracy"),
    Column("WinoG", "winogrande", "accuracy"),
)
_CONVAI2 = (
    Column("BLEU", "convai2", "bleu"),
    Column("BERT F1", "convai2", "bertscore_f1"),
    Column("BERT-R", "convai2", "bertscore_recall"),
    Column("BERT-P", "convai2", "bertscore_precision"),
    Column("Meteor", "convai2", "meteor"),
    Column("R-L", "convai2", "rouge_l"),
)
_MATH = (Column("AQuA", "AQuA", "accuracy"), Column("SVAMP", "SVAMP", "accuracy"))

LAYOUTS = (
    Layout("Commonsense reasoning (accuracy, %)", _COMMONSENSE, average=True),
    Layout("ConvAI2 (%)", _CONVAI2, average=True),
    Layout("Arithmetic reasoning (accuracy, %)", _MATH, average=False),
)
"""Tables 2, 3 and 4 of the paper; in each metric more is better."""


class Summary(NamedTuple):
    """A run's evaluation on a task; metrics are fractions in 0..1."""

    path: Path
    task: str
    metrics: dict[str, float]
    examples: int
    method: str
    model: str
    seed: int
    trained: int
    percent: float
    step: int


_REMEDY = f"run {command.named('evaluate')} again"
_COUNT = Key(int, least=0)
_KEYS = {
    "task": Key(str),
    "metrics": Key(dict[str, float]),
    "examples": _COUNT,
    "method": Key(str),
    "model": Key(str),
    "seed": Key(int),
    "trained": _COUNT,
    "percent": Key(float, least=0),
    "step": _COUNT,
}


def read(runs: Iterable[Path]) -> list[Summary]:
    """The summaries of all runs, in their order.

    Raises:
        FileNotFoundError: when a run has not been evaluated.
        ValueError: when a summary is no JSON, lacks a key or has another type in one, or when two
            have the same model, method, trained count, seed and task.
    """
    return _distinct(summary for run in runs for summary in _of_run(run))


def read_possible(runs: Iterable[Path]) -> tuple[list[Summary], list[str]]:
    """The summaries of the runs that have them, and why each other run has none, in a line.

    Raises:
        FileNotFoundError: for a path that does not exist.
        ValueError: when two runs have the same model, method, trained count, seed and task.
    """
    found: list[Summary] = []
    left_out: list[str] = []
    for run in runs:
        if not run.exists():
            raise FileNotFoundError(f"run {run} does not exist; give the directories of runs")
        try:
            found += _of_run(run)
        except (FileNotFoundError, ValueError) as error:
            left_out.append(str(error))
    return _distinct(found), left_out


def _of_run(run: Path) -> list[Summary]:
    paths = sorted(run.glob("evaluation/*/summary.json"))
    if not paths:
        raise FileNotFoundError(
            f"run {run} has no evaluation/<task>/summary.json; run "
            f"{command.named('evaluate')} --workdir={run} --tasks NAME=FILE, without --tasks "
            "where its config.evaluate.path names a test set"
        )
    return [_summary(path) for path in paths]


def _distinct(found: Iterable[Summary]) -> list[Summary]:
    summaries: dict[tuple[Any, ...], Summary] = {}
    for new in found:
        key = (new.model, new.method, new.trained, new.seed, new.task)
        if key in summaries:
            raise ValueError(
                f"{summaries[key].path} and {new.path} are both of model {new.model!r}, method "
                f"{new.method!r}, {new.trained} trained, seed {new.seed} and task "
                f"{new.task!r}; leave one out"
            )
        summaries[key] = new
    return list(summaries.values())


def _summary(path: Path) -> Summary:
    found = json_files.typed(
        path, json_files.read(path, remedy=_REMEDY), _KEYS, others="ignore", remedy=_REMEDY
    )
    metrics = {name: Key(float) for name in metrics_of(found["task"])}
    json_files.typed(path, found["metrics"], metrics, "ignore", "metrics.", _REMEDY)
    return Summary(path, **found)


def metrics_of(task: str) -> list[str]:
    """The metrics of a task that a table shows."""
    columns = itertools.chain.from_iterable(layout.columns for layout in LAYOUTS)
    return [column.metric for column in columns if column.task == task]
