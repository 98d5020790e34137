"""Generated answers, judged, and kept on disk as they come."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from tera_jax import atomic
from tera_jax.disk import require_empty
from tera_jax.llama.pieces import until

from .. import data, tasks
from ..config import EvaluateConfig, differences
from ..data import formats
from ..generation import requests
from ..generation.style import style_of
from ..training import distributed, kept
from ..training.run import Run
from .generation import Generator, require_room
from .questions import Question

ANSWERS, _SETTINGS, SUMMARY = "answers.jsonl", "settings.json", "summary.json"


class Answer(NamedTuple):
    """A question, what was generated, and the verdict.

    Attributes:
        row: the index of the question, from 0.
        prompt: the text that was completed.
        output: all that was generated.
        answer: None where the output holds none; the text itself where texts are compared.
        gold: the right answer, or the reference texts.
        right: whether the answer is the gold one; of the task ``own``, whether the first metric
            gives 1.
        scores: of the task ``own``, what each metric gives.
    """

    row: int
    prompt: str
    output: str
    answer: str | None
    gold: str | list[str]
    right: bool
    scores: dict[str, float] | None = None


def prompts(run: Run, questions: Sequence[Question], task: str | None = None) -> list[list[int]]:
    """The token ids of the questions' prompts.

    Raises:
        ValueError: when one is, with its answer, longer than the model's context; for a question of
            the task ``own`` that the run's template does not take.
    """
    asked = [question.record for question in questions]
    if task == tasks.own.NAME:
        named = [(f"question {row}", record) for row, record in enumerate(asked)]
        own = requests.encoded(named, style_of(run.tokenizer, run.config.data))
        ids = [[*run.virtual_tokens, *each] for each in own]
    else:
        ids = data.encode_prompts(
            asked, run.tokenizer, run.config.data, run.virtual_tokens, inference=True
        )
    require_room(run, ids, run.config.decoding.max_new_tokens)
    return ids


def ask(
    run: Run,
    generator: Generator,
    questions: Sequence[Question],
    ids: Sequence[Sequence[int]],
    task: str,
    directory: Path | None = None,
    progress: bool = False,
) -> list[Answer]:
    """The answers to all questions, in their order.

    Args:
        run: the base and the adapter.
        generator: of the adapted model.
        questions: of one task.
        ids: their :func:`prompts`.
        task: which; it says how they are judged.
        directory: where each answer is written as soon as it is there, and where those of an
            evaluation that was killed are found; None keeps nothing. See :func:`init_directory`.
        progress: show a bar.
    """
    outputs = {}
    if directory is not None:
        outputs = dict(distributed.on_main_process(lambda: list(read(directory).items())))
    missing = [row for row in range(len(questions)) if row not in outputs]
    made = generator(ids, missing, progress)
    kept = directory if distributed.is_main_process() else None
    file = None if kept is None else (kept / ANSWERS).open("a")
    try:
        for row, tokens in made:
            output = run.tokenizer.decode(tokens, skip_special_tokens=True)
            outputs[row] = output
            if file is not None:
                file.write(_line(judged(row, questions[row], output, task, run)))
                file.flush()
    finally:
        if file is not None:
            file.close()
    return [
        judged(row, question, outputs[row], task, run) for row, question in enumerate(questions)
    ]


def judged(row: int, question: Question, output: str, task: str, run: Run) -> Answer:
    """The verdict on one output."""
    if task == tasks.own.NAME:
        return _judged_by_metrics(row, question, output, run)
    config, judge = run.config.data, tasks.task(task)
    text = tasks.cut(output, config.prompt)
    prompt = formats.prompt_text(question.record, config, inference=True)
    if judge.answer is None:
        return Answer(row, prompt, output, text, list(question.golds), text in question.golds)
    (gold,) = question.golds
    answer = judge.answer(text, gold)
    right = answer is not None and judge.right(answer, gold)
    return Answer(row, prompt, output, answer, gold, right)


def _judged_by_metrics(row: int, question: Question, output: str, run: Run) -> Answer:
    style = style_of(run.tokenizer, run.config.data)
    text = "".join(style.clean(until([output], style.stop)))  # as train.generate prints it
    record, golds = question.record, [*question.golds]
    names = tasks.own.scored(run.config.evaluate.metrics)
    scores = {name: tasks.own.load(name)(text, golds, record) for name in names}
    asked = record.get("prompt") or json.dumps(record.get("messages", record), ensure_ascii=False)
    return Answer(row, asked, output, text, golds, scores[names[0]] == 1, scores)


def metrics(answers: Sequence[Answer], task: str, run: Run) -> dict[str, float]:
    """Fractions in 0..1: ``accuracy`` and ``parsed``, or those of generated text.

    Of the task ``own`` the mean of each metric, which a function of the user may give otherwise.
    """
    if task == tasks.own.NAME:
        rows = [answer.scores or {} for answer in answers]
        names = tasks.own.scored(run.config.evaluate.metrics)
        return {name: fmean(row[name] for row in rows) for name in names}
    if tasks.task(task).answer is not None:
        return {
            "accuracy": sum(answer.right for answer in answers) / len(answers),
            "parsed": sum(answer.answer is not None for answer in answers) / len(answers),
        }
    from . import (
        text_metrics,  # its libraries are optional, and take seconds to import
    )

    evaluate = run.config.evaluate
    found = text_metrics.score(
        [answer.answer or "" for answer in answers],
        [list(answer.gold) for answer in answers],
        wordnet=Path(evaluate.wordnet),
        encoder=evaluate.encoder,
    )
    return {**found._asdict(), "average": found.average}


def require(names: Iterable[str], config: EvaluateConfig) -> None:
    """Raise what :func:`metrics` of tasks would, before long work.

    Raises:
        ImportError: when the libraries are not installed, or a function of the user's cannot be
            imported.
        FileNotFoundError: when WordNet's dictionary is missing.
        ValueError: when BERTScore's encoder is.
    """
    names = [*names]
    if tasks.own.NAME in names:
        for name in tasks.own.scored(config.metrics):
            tasks.own.load(name)
            file = tasks.own.origin(name)
            if file is not None:
                distributed.log(f"the metric {name} is the code in {file}")
        names.remove(tasks.own.NAME)
    if all(tasks.task(name).answer is not None for name in names):
        return
    try:
        from . import text_metrics
    except ImportError as error:
        raise ImportError(
            f"the metrics of generated text need pip install 'tera-jax[evaluate]' ({error})"
        ) from error
    text_metrics.require(Path(config.wordnet), config.encoder)


def init_directory(directory: Path, settings: dict[str, Any], earlier: Path | None = None) -> None:
    """Make a directory for the answers under ``settings``, or go on in one.

    One whose settings cannot be read is moved to ``damaged`` beside it.

    Args:
        directory: of the answers.
        settings: what they depend on.
        earlier: where answers under other settings are moved to; None refuses them.

    Raises:
        FileExistsError: when it holds something else, or answers under other settings.
    """
    file = directory / _SETTINGS
    found = kept.read(file) if file.is_file() else settings
    changed = [] if found is None else differences(found, settings, "settings")
    if changed and earlier is None:
        raise FileExistsError(
            f"{directory} holds an evaluation under other settings: {'; '.join(changed)}. "
            "Choose another --output, or remove it"
        )
    if changed or found is None:
        why = "; ".join(changed) or f"{file} cannot be read"
        place = earlier if earlier and changed else directory.parent / "damaged"
        moved = atomic.set_aside(directory, place)
        distributed.log(f"{directory} is made again ({why}); what was there is in {moved}")
    if not file.is_file():
        require_empty(directory)
        directory.mkdir(parents=True, exist_ok=True)
        atomic.write_json(file, settings)


def read(directory: Path) -> dict[int, str]:
    """The outputs that are there already, by the index of their question."""
    file = directory / ANSWERS
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    rows = {line: _row(line) for line in lines}
    whole = [line for line in lines if rows[line] is not None]
    if len(whole) < len(lines):  # the last line was cut off when the evaluation was killed
        atomic.write_text(file, "".join(whole))
    return dict(row for line in whole if (row := rows[line]) is not None)


def _row(line: str) -> tuple[int, str] | None:
    """Index and output of a line that was written to its end; None for another."""
    one = kept.line(line) or {}
    return (one["row"], one["output"]) if {"row", "output"} <= one.keys() else None


class Pick(NamedTuple):
    """A question whose given choices were compared; indices count from 0.

    Attributes:
        row: the index of the question.
        prompt: the instruction.
        logprobs: of each choice, in nats.
        answer: the index of the likeliest choice.
        by_length: the index of the likeliest for its length.
        gold: the index of the right choice.
        right: whether ``answer`` is ``gold``.
    """

    row: int
    prompt: str
    logprobs: list[float]
    answer: int
    by_length: int
    gold: int
    right: bool


def write(
    directory: Path, answers: Iterable[Answer] | Iterable[Pick], summary: dict[str, Any]
) -> None:
    """The answers in order, and ``summary.json``, whose presence says that they are complete."""
    atomic.write_text(directory / ANSWERS, "".join(map(_line, answers)))
    atomic.write_json(directory / SUMMARY, summary)


def _line(answer: Answer | Pick) -> str:
    content = answer._asdict()
    if content.get("scores", ()) is None:  # of other tasks
        del content["scores"]
    return json.dumps(content) + "\n"
