r"""Evaluate a trained run: held-out loss, and generated answers of the commonsense format.

    python -m train.evaluate --workdir=runs/quickstart [--data=test.json] [--rows=100]

Writes ``evaluation.json`` (the summary) and ``answers.jsonl`` (prompt, output, answer, gold,
right) into ``--output``, by default ``<workdir>/evaluation``.
"""

import argparse
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from tera_jax.export import require_empty
from tera_jax.llama.generate import greedy, left_pad
from train import checkpoint, data, records
from train import run as runs
from train.config import parse
from train.loop import held_out_loss
from train.run import Run
from train.step import make_eval_step
from train.tasks import commonsense


class Score(NamedTuple):
    """Held-out loss in nats a target token, and counts of generated answers."""

    held_out_loss: float
    answers: int
    parsed: int
    right: int


class Answer(NamedTuple):
    """One generated answer; ``answer`` is None where the output holds none."""

    prompt: str
    output: str
    answer: str | None
    gold: str
    right: bool


def evaluate(
    run: Run,
    d: Any,
    valid: Sequence[data.Example],
    questions: Sequence[dict[str, Any]],
) -> tuple[Score, list[Answer]]:
    """Measure the adapted model.

    Args:
        run: the base and the adapter.
        d: the adapter's trainable arrays.
        valid: held-out examples for the loss.
        questions: records whose answers are generated; none is allowed.
    """
    eval_step = make_eval_step(run.model, run.adapter, run.mesh, run.params)
    loss = held_out_loss(run, eval_step, d, valid)
    answers = list(generate_answers(run, d, questions))
    parsed = sum(answer.answer is not None for answer in answers)
    return Score(loss, len(answers), parsed, sum(answer.right for answer in answers)), answers


def at_start(
    run: Run,
    workdir: Path,
    valid: Sequence[data.Example],
    questions: Sequence[dict[str, Any]],
) -> Score:
    """The score before the first step; read from ``workdir`` if it was measured before."""
    summary = workdir / "before" / "evaluation.json"
    if summary.is_file():
        fields = json.loads(summary.read_text())
        return Score(**{name: fields[name] for name in Score._fields})
    state, _ = runs.start(run, steps=1)
    score, answers = evaluate(run, state.d, valid, questions)
    write(summary.parent, 0, score, answers)
    return score


def generate_answers(run: Run, d: Any, questions: Sequence[dict[str, Any]]) -> Iterator[Answer]:
    """Greedy answers, in the order of the questions.

    A method that can be merged is merged first, which makes decoding as fast as the base's.
    Prompts are decoded in the order of their lengths, so that a batch carries little padding.
    """
    if not questions:
        return
    config = run.config
    if run.adapter.mergeable:
        variables, apply = {"params": jax.jit(run.adapter.merge)(run.variables(d))}, run.model.apply
    else:
        variables, apply = run.variables(d), functools.partial(run.adapter.apply, run.model)
    prompts = data.encode_prompts(
        questions,
        run.tokenizer,
        config.data,
        bos=config.data.bos != "never",
        virtual=run.virtual_tokens,
    )
    decode = jax.jit(
        functools.partial(
            greedy,
            run.model,
            max_new_tokens=config.evaluate.max_new_tokens,
            eos_id=run.tokenizer.eos_token_id,
            pad_id=0,
            apply=apply,
        )
    )
    outputs: dict[int, str] = {}
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    size = config.evaluate.batch_size
    with tqdm(total=len(prompts), unit="answer", dynamic_ncols=True) as bar:
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            filled = [*chunk, *[chunk[-1]] * (size - len(chunk))]
            tokens_BL, segments_BL = left_pad([prompts[row] for row in filled], pad_id=0)
            new_BT = decode(variables, tokens_BL, segments_BL)
            for row, tokens_T in zip(chunk, jax.device_get(new_BT), strict=False):
                outputs[row] = _text(tokens_T.tolist(), run.tokenizer)
            bar.update(len(chunk))
    for row, record in enumerate(questions):
        gold = record["answer"]
        answer = commonsense.answer_in(outputs[row], gold)
        yield Answer(record["instruction"], outputs[row], answer, gold, answer == gold)


def _text(tokens: list[int], tokenizer: Any) -> str:
    """The text up to the first EOS token."""
    if tokenizer.eos_token_id in tokens:
        tokens = tokens[: tokens.index(tokenizer.eos_token_id)]
    return tokenizer.decode(tokens, skip_special_tokens=True)


def load_questions(path: str | None, rows: int | None) -> list[dict[str, Any]]:
    """Records with the field ``answer``, in the commonsense format.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when a record lacks a field or its answer is not of the format.
    """
    if path is None:
        return []
    questions = list(records.load(path))[:rows]
    for row, record in enumerate(questions):
        gold = record.get("answer")
        if not isinstance(gold, str):
            raise ValueError(f"record {row} of {path} has no text in field 'answer'")
        try:
            commonsense.answer_in("", gold)
        except ValueError as error:
            raise ValueError(f"record {row} of {path}: {error}") from None
    return questions


def table(scores: dict[str, Score]) -> str:
    """Scores side by side, one column each, for a terminal."""
    rows = [["", *scores]]
    rows.append(
        ["held-out loss (nats/token)", *(f"{s.held_out_loss:.4f}" for s in scores.values())]
    )
    if any(score.answers for score in scores.values()):
        of = [(s, s.answers) for s in scores.values()]
        rows.append(["answers parsed", *(f"{s.parsed}/{n} ({s.parsed / n:.1%})" for s, n in of)])
        rows.append(["answers right", *(f"{s.right}/{n} ({s.right / n:.1%})" for s, n in of)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def write(directory: Path, step: int, score: Score, answers: Sequence[Answer]) -> None:
    """``evaluation.json`` and, if there are answers, ``answers.jsonl``."""
    directory.mkdir(parents=True, exist_ok=True)
    summary = {"step": step, **score._asdict()}
    (directory / "evaluation.json").write_text(json.dumps(summary, indent=2) + "\n")
    if answers:
        lines = "".join(json.dumps(answer._asdict()) + "\n" for answer in answers)
        (directory / "answers.jsonl").write_text(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate the best checkpoint of a run."""
    parser = argparse.ArgumentParser(prog="python -m train.evaluate", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="the directory of a run")
    parser.add_argument("--data", help="records to answer; by default the run's evaluate.path")
    parser.add_argument("--rows", type=int, help="at most so many of them")
    parser.add_argument("--output", type=Path, help="by default <workdir>/evaluation")
    args = parser.parse_args(argv)

    config = parse(checkpoint.saved_config(args.workdir))
    output = args.output or args.workdir / "evaluation"
    require_empty(output)
    questions = load_questions(args.data or config.evaluate.path, args.rows or config.evaluate.rows)
    _, held_out = records.split(config.data)
    run = runs.build(config, args.workdir)
    step, d = runs.trained(run, args.workdir)
    valid = data.tokenize(held_out, run.tokenizer, config.data, run.virtual_tokens)
    with jax.set_mesh(run.mesh):
        score, answers = evaluate(run, d, valid, questions)
    write(output, step, score, answers)
    print(table({f"step {step}": score}))
    print(f"written to {output}")


if __name__ == "__main__":
    main()
