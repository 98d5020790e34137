r"""Evaluate a trained run: held-out loss, and generated answers to test sets.

    python -m train.evaluate --workdir=runs/commonsense --data=dataset --tasks boolq piqa
    python -m train.evaluate --workdir=runs/convai2 --tasks convai2=dialogues.txt[900:]
    python -m train.evaluate --workdir=runs/quickstart

Without ``--tasks`` it is the run's ``evaluate.task`` on its ``evaluate.path``. ``--score=labels``
and ``--score=texts`` compare the likelihoods of the given choices instead of generating. ``--base``
evaluates the base under the run's settings.

Writes ``<workdir>/evaluation/<task>/``: ``answers.jsonl``, a line for each question, and
``summary.json``. An evaluation that was killed goes on where it stopped.
"""

import dataclasses
import functools
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from tera_jax import quantize

from . import command, data
from .config import EvaluateConfig, parse, to_dict
from .data import records
from .evaluation import answers, likelihood, questions
from .evaluation.answers import Answer, Pick
from .evaluation.generation import Generator
from .evaluation.questions import Question
from .training import checkpoint, distributed
from .training import run as runs
from .training.loop import held_out_loss
from .training.run import Run
from .training.step import make_eval_step

HELD_OUT = "held-out"
SCORES = ("generate", "labels", "texts")


class Score(NamedTuple):
    """Of one task: fractions in 0..1, and the number of questions. Of the held-out loss: nats."""

    metrics: dict[str, float]
    examples: int


Tests = Mapping[str, Sequence[Question]]


def load_tests(config: EvaluateConfig, data_config: Any) -> dict[str, list[Question]]:
    """The questions that the configuration names, by their task; none without a path."""
    if config.path is None:
        return {}
    return {config.task: questions.load(config.path, config.task, data_config, config.rows)}


def measure(
    run: Run,
    step: int,
    d: Any,
    directory: Path,
    valid: Sequence[data.Example],
    tests: Tests,
    score: str = "generate",
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

    Raises:
        FileExistsError: when ``directory`` holds an evaluation under other settings.
        ValueError: when a prompt is longer than the model's context.
    """
    ids = {}
    for task, asked in tests.items():
        place = directory / _name(task, score)
        settings = _settings(run, step, task, asked, score)
        # On the first of several processes, as all that is written and read here.
        distributed.on_first(functools.partial(answers.claim, place, settings))
        if score == "generate" and not distributed.on_first((place / answers.SUMMARY).is_file):
            ids[task] = answers.prompts(run, asked)
    result: dict[str, Score] = {}
    if valid:
        loss = _held_out(run, step, d, directory / HELD_OUT, valid)
        result[HELD_OUT] = Score({"loss": loss}, len(valid))
    generator = Generator(run, d) if ids else None
    for task, asked in tests.items():
        name = _name(task, score)
        file = directory / name / answers.SUMMARY
        summary = distributed.on_first(functools.partial(_read, file))
        if summary is not None:
            result[name] = Score(summary["metrics"], summary["examples"])
            continue
        found: list[Answer] | list[Pick]
        if generator is not None:
            found = answers.ask(run, generator, asked, ids[task], task, directory / name, True)
            score_answers = functools.partial(answers.metrics, found, task, run)
            metrics = distributed.on_first(score_answers)
        else:
            found = _picked(run, d, asked, score)
            metrics = {
                "accuracy": sum(pick.right for pick in found) / len(found),
                "accuracy_by_length": sum(p.by_length == p.gold for p in found) / len(found),
            }
        result[name] = Score(metrics, len(asked))
        summary = _summary(run, step, d, name, result[name])
        distributed.on_first(functools.partial(answers.write, directory / name, found, summary))
    return result


def _read(file: Path) -> dict[str, Any] | None:
    """The JSON in a file, or None where there is none."""
    return json.loads(file.read_text()) if file.is_file() else None


def _name(task: str, score: str) -> str:
    return task if score == "generate" else f"{task}-{score}"


def _held_out(run: Run, step: int, d: Any, directory: Path, valid: Sequence[data.Example]) -> float:
    file = directory / "loss.json"
    kept = distributed.on_first(lambda: _read(file))
    if kept is not None and kept["step"] == step:
        return kept["held_out_loss"]
    eval_step = make_eval_step(run.model, run.adapter, run.mesh, run.params)
    loss = held_out_loss(run, eval_step, d, valid)
    if distributed.is_first():
        directory.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"step": step, "held_out_loss": loss}) + "\n")
    return loss


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
    """What the answers depend on."""
    config = to_dict(run.config)
    text = json.dumps([[dict(question.record), question.golds] for question in asked])
    shared = {"task": task, "step": step, "questions": zlib.crc32(text.encode()), "score": score}
    shared |= {"base": run.meta.base_fingerprint, "frozen": run.meta.frozen_fingerprint}
    if score == "generate":
        shared |= {"decoding": config["decoding"], "seed": run.config.evaluate.seed}
    keys = ("prompt", "history", "max_prompt", "bos")
    return json.loads(json.dumps(shared | {key: config["data"][key] for key in keys}))


def table(columns: Mapping[str, Mapping[str, Score]]) -> str:
    """Scores side by side, one column each, for a terminal."""
    rows = [["", *columns]]
    for name, first in next(iter(columns.values())).items():
        scores = [column[name] for column in columns.values()]
        for metric in first.metrics:
            label = "held-out loss (nats/token)" if name == HELD_OUT else f"{name} {metric}"
            rows.append([label, *(_cell(name, metric, score) for score in scores)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(name: str, metric: str, score: Score) -> str:
    value = score.metrics[metric]
    if name == HELD_OUT:
        return f"{value:.4f}"
    if metric in ("accuracy", "parsed", "accuracy_by_length"):
        return f"{round(value * score.examples)}/{score.examples} ({value:.1%})"
    return f"{value:.2%}"


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate the best checkpoint of a run."""
    parser = command.parser(main)
    parser.add_argument("--workdir", type=Path, required=True, help="the directory of a run")
    parser.add_argument("--tasks", nargs="+", help="names of test sets, or NAME=FILE")
    parser.add_argument("--data", default=".", help="directory with <task>/test.json")
    parser.add_argument("--rows", type=int, help="at most so many questions of each")
    parser.add_argument("--score", choices=SCORES, default="generate", help="see above")
    parser.add_argument("--base", action="store_true", help="the base, without the adapter")
    parser.add_argument("--output", type=Path, help="by default <workdir>/evaluation")
    parser.add_argument("--batch-size", type=int, help="prompts at once; by default the run's")
    parser.add_argument("--num-beams", type=int, help="by default the run's")
    parser.add_argument("--mesh", help="as data=2,fsdp=4; by default the run's")
    parser.add_argument("--wordnet", help="WordNet's dictionary; by default the run's")
    parser.add_argument("--encoder", help="BERTScore's encoder; by default the run's")
    args = parser.parse_args(argv)

    distributed.start()
    config = parse(checkpoint.saved_config(args.workdir, args.mesh))
    if args.num_beams:
        decoding = dataclasses.replace(config.decoding, num_beams=args.num_beams)
        config = dataclasses.replace(config, decoding=decoding)
    given = {key: getattr(args, key) for key in ("batch_size", "rows", "wordnet", "encoder")}
    chosen = {key: value for key, value in given.items() if value is not None}
    config = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, **chosen))
    if args.tasks:
        files = questions.find(args.data, args.tasks)
        rows = config.evaluate.rows
        tests = {t: questions.load(file, t, config.data, rows) for t, file in files.items()}
    else:
        tests = load_tests(config.evaluate, config.data)
    if args.score == "generate":
        answers.require(tests, config.evaluate)
    _, held_out = records.split(config.data)
    run = runs.build(config, args.workdir)
    if args.base:
        step, d = 0, runs.start(run, steps=1)[0].d
    else:
        step, d = runs.trained(run, args.workdir)
    output = args.output or args.workdir / ("evaluation-base" if args.base else "evaluation")
    valid = data.tokenize(held_out, run.tokenizer, config.data, run.virtual_tokens)
    with jax.set_mesh(run.mesh):
        scores = measure(run, step, d, output, valid, tests, args.score)
    distributed.say(table({"base" if args.base else f"step {step}": scores}))
    distributed.say(f"written to {output}")


if __name__ == "__main__":
    command.run(main)
