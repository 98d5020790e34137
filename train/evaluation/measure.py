"""Held-out loss and test sets of a run: each measured once, kept on disk, and shown in a table."""

import contextlib
import functools
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from tera_jax import atomic, locks, quantize
from tera_jax.fingerprint import fingerprint

from .. import data, tasks
from ..config import EvaluateConfig, to_json
from ..data.conversations.templates import load_template
from ..text_table import aligned
from ..training import distributed, kept
from ..training.loop import held_out_loss
from ..training.run import Run
from ..training.steps.step import make_eval_step
from . import answers, likelihood, questions
from .answers import Answer, Pick
from .generation import Generator
from .questions import Question

HELD_OUT = "held-out"
_COUNTS = ("accuracy", "parsed", "accuracy_by_length", "exact", "contains", "number", "choice")
"""Metrics that count questions."""
SCORES = ("generate", "labels", "texts")
_NOT_OF_LOSS = (
    *("path", "validation_path", "validation_rows", "split_seed", "allow_cut_responses"),
    *("columns", "chat_template", "loss", "skip_bad_rows"),
)
"""Fields of ``config.data`` that say which records there are, or which of their tokens have a loss:
``data.digest`` stands for them."""


class Score(NamedTuple):
    """Of one task: fractions in 0..1, and the number of questions. Of the held-out loss: nats."""

    metrics: dict[str, float]
    examples: int


Tests = Mapping[str, Sequence[Question]]


def load_tests(config: EvaluateConfig, data_config: Any) -> dict[str, list[Question]]:
    """The questions that the configuration names, by their task; none without a path."""
    if config.path is None:
        return {}
    found = questions.load(config.path, config.task, data_config, config.limit, config.metrics)
    return {config.task: found}


def measure(
    run: Run,
    step: int,
    d: Any,
    directory: Path,
    valid: Sequence[data.Example],
    tests: Tests,
    score: str = "generate",
    earlier: Path | None = None,
) -> dict[str, Score]:
    """Held-out loss and every test, each written below ``directory`` when it is done.

    What is there already under the same settings is read, or gone on with.

    Args:
        run: the base and the adapter.
        step: of ``d``, for the summaries.
        d: the adapter's trainable arrays.
        directory: gets a directory for each test.
        valid: held-out examples for the loss; there may be none.
        tests: questions by task.
        score: how questions are answered, of :data:`SCORES`.
        earlier: where an evaluation under other settings is moved to; None refuses it.

    Raises:
        FileExistsError: when ``directory`` holds an evaluation under other settings, or another
            process writes to it.
        FloatingPointError: when the held-out loss is not finite.
        ValueError: when a prompt is longer than the model's context.
    """
    with contextlib.ExitStack() as stack:
        distributed.on_main_process(lambda: stack.enter_context(locks.held(directory)))
        return _measure(run, step, d, directory, valid, tests, score, earlier)


def _measure(
    run: Run,
    step: int,
    d: Any,
    directory: Path,
    valid: Sequence[data.Example],
    tests: Tests,
    score: str,
    earlier: Path | None,
) -> dict[str, Score]:
    ids, summaries = {}, {}
    for task, asked in tests.items():
        place = directory / _name(task, score)
        settings = _settings(run, step, task, asked, score)
        # On the first of several processes, as all that is written and read here.
        distributed.on_main_process(
            functools.partial(answers.init_directory, place, settings, earlier)
        )
        summaries[task] = distributed.on_main_process(
            functools.partial(_read, place / answers.SUMMARY)
        )
        if score == "generate" and summaries[task] is None:
            ids[task] = answers.prompts(run, asked, task)
    result: dict[str, Score] = {}
    if valid:
        loss = _held_out(run, step, d, directory / HELD_OUT, valid)
        result[HELD_OUT] = Score({"loss": loss}, len(valid))
    generator = Generator(run, d) if ids else None
    for task, asked in tests.items():
        name = _name(task, score)
        summary = summaries[task]
        if summary is not None:
            result[name] = Score(summary["metrics"], summary["examples"])
            continue
        found: list[Answer] | list[Pick]
        if generator is not None:
            found = answers.ask(run, generator, asked, ids[task], task, directory / name, True)
            score_answers = functools.partial(answers.metrics, found, task, run)
            metrics = distributed.on_main_process(score_answers)
            if task == tasks.own.NAME and tasks.own.LOSS in run.config.evaluate.metrics:
                metrics[tasks.own.LOSS] = _own_loss(run, d, asked)
        else:
            found = _picked(run, d, asked, score)
            metrics = {
                "accuracy": sum(pick.right for pick in found) / len(found),
                "accuracy_by_length": sum(p.by_length == p.gold for p in found) / len(found),
            }
        result[name] = Score(metrics, len(asked))
        summary = _summary(run, step, d, name, result[name])
        distributed.on_main_process(
            functools.partial(answers.write, directory / name, found, summary)
        )
    return result


def _read(file: Path) -> dict[str, Any] | None:
    """The summary in a file, or None where there is none that can be read."""
    summary = _kept(file, ("metrics", "examples"))
    return summary and {key: summary[key] for key in ("metrics", "examples")}


def _kept(file: Path, keys: Sequence[str]) -> dict[str, Any] | None:
    """What a file holds, the keys among it; None, and a line in the log, for a damaged one."""
    found = kept.read(file)
    if found is not None and found.keys() >= set(keys):
        return found
    if file.is_file():
        distributed.log(f"{file} cannot be read; it is made again")
    return None


def _name(task: str, score: str) -> str:
    return task if score == "generate" else f"{task}-{score}"


def _own_loss(run: Run, d: Any, asked: Sequence[Question]) -> float:
    """Of the first right answer to each question, after its prompt."""
    config = run.config.data
    given = [tasks.own.answered(record, golds[0], config.prompt) for record, golds in asked]
    examples = data.tokenize(given, run.tokenizer, config, run.virtual_tokens)
    eval_step = make_eval_step(run.model, run.adapter, run.mesh, run.params)
    return held_out_loss(run, eval_step, d, examples)


def _held_out(run: Run, step: int, d: Any, directory: Path, valid: Sequence[data.Example]) -> float:
    file = directory / "loss.json"
    settings = _loss_settings(run, step, d, valid)
    before = distributed.on_main_process(lambda: _kept_loss(file, settings))
    if before is not None:
        return before
    eval_step = make_eval_step(run.model, run.adapter, run.mesh, run.params)
    loss = held_out_loss(run, eval_step, d, valid)
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the held-out loss of step {step} is {loss}; nothing is written. Compute in float32 "
            "(config.model.dtype), or give another base"
        )
    if distributed.is_main_process():
        directory.mkdir(parents=True, exist_ok=True)
        atomic.write_json(file, {**settings, "held_out_loss": loss})
    return loss


def _kept_loss(file: Path, settings: Mapping[str, Any]) -> float | None:
    """The loss in a file, if it was taken under these settings; a damaged file has none."""
    found = _kept(file, ("held_out_loss",))
    if found is None:
        return None
    loss = found.pop("held_out_loss")
    finite = isinstance(loss, float) and math.isfinite(loss)
    return loss if finite and found == settings else None


def _loss_settings(run: Run, step: int, d: Any, valid: Sequence[data.Example]) -> dict[str, Any]:
    """What the held-out loss depends on, as JSON has it."""
    config = to_json(run.config)
    on_all = {"loss": "all"} if run.config.data.loss == "all" else {}
    return on_all | {
        "step": step,
        "d": fingerprint(d),
        "base": run.meta.base_fingerprint,
        "base_exact": run.meta.base_exact,
        "frozen": run.meta.frozen_fingerprint,
        "model": {key: config["model"][key] for key in ("dtype", "quantize", "block")},
        "method": config["method"],
        "examples": data.digest(valid),
        "data": {key: x for key, x in config["data"].items() if key not in _NOT_OF_LOSS},
    }


def _summary(run: Run, step: int, d: Any, name: str, score: Score) -> dict[str, Any]:
    """What ``train.report`` reads."""
    base = quantize.size(run.params)
    trained = sum(leaf.size for leaf in jax.tree.leaves(d))
    return {
        "task": name,
        "metrics": score.metrics,
        "examples": score.examples,
        "method": run.config.method.name,
        "model": Path(run.config.model.path).name,
        "seed": run.config.loop.seed,
        "trained": trained,
        "percent": 100 * trained / (base + trained),
        "step": step,
    }


def _picked(run: Run, d: Any, asked: Sequence[Question], score: str) -> list[Pick]:
    rows = [question.record for question in asked]
    if score == "labels":
        given = likelihood.label_questions(rows, run.tokenizer, run.config.data)
    else:
        limit = run.model.config.max_position_embeddings
        given = likelihood.text_questions(rows, run.tokenizer, limit)
    chosen = likelihood.choose(run, d, given, progress=True)
    picks = []
    for row, (record, choice, one) in enumerate(zip(rows, chosen, given, strict=True)):
        right = choice.by_sum == one.gold
        by_sum, by_length, logprobs = choice
        prompt = record["instruction"]
        picks.append(Pick(row, prompt, logprobs, by_sum, by_length, one.gold, right))
    return picks


def _settings(
    run: Run, step: int, task: str, asked: Sequence[Question], score: str
) -> dict[str, Any]:
    """What the answers depend on, as JSON has it."""
    config = to_json(run.config)
    text = json.dumps([[dict(question.record), question.golds] for question in asked])
    shared = {"task": task, "step": step, "questions": zlib.crc32(text.encode()), "score": score}
    shared |= {"base": run.meta.base_fingerprint, "frozen": run.meta.frozen_fingerprint}
    if score == "generate":
        shared |= {"decoding": config["decoding"], "seed": run.config.evaluate.seed}
    if task == tasks.own.NAME:
        shared |= {"metrics": config["evaluate"]["metrics"]}
    keys = ["prompt", "history", "max_prompt", "bos"]
    if run.config.data.chat_template is not None:
        shared["template"] = load_template(run.config.data.chat_template)
    return shared | {key: config["data"][key] for key in keys}


def table(columns: Mapping[str, Mapping[str, Score]]) -> str:
    """Scores side by side, one column each, for a terminal."""
    rows = [["", *columns]]
    for name, first in next(iter(columns.values())).items():
        scores = [column[name] for column in columns.values()]
        for metric in first.metrics:
            label = "held-out loss (nats/token)" if name == HELD_OUT else f"{name} {metric}"
            rows.append([label, *(_cell(name, metric, score) for score in scores)])
    lines = aligned(rows)
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(name: str, metric: str, score: Score) -> str:
    value = score.metrics[metric]
    if name == HELD_OUT or metric == tasks.own.LOSS:
        return f"{value:.4f}"
    if metric in _COUNTS:
        return f"{round(value * score.examples)}/{score.examples} ({value:.1%})"
    return f"{value:.2%}"
