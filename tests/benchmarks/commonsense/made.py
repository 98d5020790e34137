"""Made-up records and runs of the third task."""

import sys

from benchmarks import held_out
from benchmarks.commonsense.drawn import Sizes
from benchmarks.commonsense.rows import Row

SIZES = Sizes(train=8, validation=3, test=2)


def question(task: str, number: int) -> dict[str, str]:
    """Of the kind of a sub-task."""
    kinds = {"piqa": "solution", "hellaswag": "ending", "winogrande": "option"}
    kind = kinds.get(task, "answer")
    labels = ["true", "false"] if task == "boolq" else [f"{kind}1", f"{kind}2"]
    stem = f"the cat {number} saw _ today." if task == "winogrande" else f"what is {number}?"
    texts = "" if task == "boolq" else f" {kind.capitalize()}1: red {kind.capitalize()}2: a sun"
    hint = "/".join(labels)
    answer = labels[number % 2]
    return {
        "instruction": f"Please say: {stem}{texts}\n\nAnswer format: {hint}",
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["held_out", *map(str, arguments)])
    held_out.main()


def row(variant, rate, seed, validation=1.0, losses=(1.0, 2.0), shares=(0.5, 0.25), **fields):
    usual = {
        "steps": 300 if rate else 0,
        "trained": 1234 if rate else 0,
        "targets": "",
        "seconds_per_step": 0.05,
        "seconds_of_scores": 1.0,
        "counts": {"train": 9600},
        "records": "r",
        "base": "b",
        "device": "GPU",
        "programs": {"jax": "0"},
    }
    scores = (dict(zip("ab", each, strict=True)) for each in (losses, shares, shares, losses))
    return Row(variant, rate, seed, **{**usual, **fields}, validation=validation, **_named(scores))


def _named(scores):
    return dict(zip(("nll", "accuracy", "by_length", "text_nll"), scores, strict=True))
