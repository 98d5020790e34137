"""Test sets: what is asked, and what a right answer is."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import tasks
from ..config import DataConfig
from ..data import formats, records
from ..generation import requests


class Question(NamedTuple):
    """A record to be answered.

    Attributes:
        record: what its prompt is made of.
        golds: right answers, or reference texts; one, unless the same context comes with several.
    """

    record: Mapping[str, Any]
    golds: tuple[str, ...]


def load(
    path: str,
    task: str,
    config: DataConfig,
    limit: int | None = None,
    metrics: Sequence[str] = ("exact",),
) -> list[Question]:
    """The questions of a file; each needs an ``answer`` that the task can have.

    In a dialogue what is said is the reference, and rows that follow each other with an equal
    prompt become one question with several, as in HiRA's evaluation.

    Args:
        path: a file of records, see :func:`train.data.records.load`.
        task: a row of ``train.tasks.TASKS``.
        config: the style of the prompts.
        limit: at most so many questions.
        metrics: of the task ``own``.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when there are no questions, or a record lacks a field or has another answer.
    """
    judge = tasks.task(task)
    if task == tasks.own.NAME:
        return _own(path, metrics)[:limit]
    if judge.answer is None:
        return _dialogues(path, config)[:limit]
    questions = []
    for row, record in enumerate(_read(path, config, answered=False)):
        gold = record.get("answer")
        if not isinstance(gold, str):
            raise ValueError(f"record {row} of {path} has no text in field 'answer'")
        try:
            judge.require(gold)
        except ValueError as error:
            raise ValueError(f"record {row} of {path} is no question of {task}: {error}") from None
        questions.append(Question(record, (gold,)))
    return questions[:limit]


def _read(path: str, config: DataConfig, answered: bool = True) -> Iterable[Mapping[str, Any]]:
    return records.load(path, config.prompt, answered, config.columns)


def _own(path: str, metrics: Sequence[str]) -> list[Question]:
    """A prompt and an answer a record, of whatever kind the run's own are."""
    questions = []
    for name, record in requests.read(Path(path)):
        try:
            golds = tasks.own.golds_of(record)
            tasks.own.require(record, golds, tasks.own.scored(metrics))
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
        questions.append(Question(record, golds))
    return questions


def _dialogues(path: str, config: DataConfig) -> list[Question]:
    questions: list[Question] = []
    last = None
    for record in _read(path, config):
        prompt = formats.prompt_text(record, config)
        if prompt == last:
            asked, golds = questions.pop()
            questions.append(Question(asked, (*golds, record["output"])))
        else:
            questions.append(Question(record, (record["output"],)))
        last = prompt
    return questions


def find(directory: str, names: Sequence[str]) -> dict[str, str]:
    """The test file of each task: ``<directory>/<task>/test.json``, LLM-Adapters' layout.

    A name may bring its file: ``convai2=dialogues.txt[900:]``.

    Raises:
        ValueError: for a task that does not exist.
        FileNotFoundError: for a task without a file.
    """
    found = {}
    for given in names:
        name, _, path = given.partition("=")
        tasks.task(name)
        file = Path(directory) / name / "test.json"
        if not path and not file.is_file():
            raise FileNotFoundError(
                f"task {name}: {file} does not exist; give --data the directory that holds "
                f"{name}/test.json, or the file itself by --tasks {name}=FILE"
            )
        found[name] = path or str(file)
    return found
