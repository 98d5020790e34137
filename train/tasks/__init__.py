"""The benchmarks: prompts, what a response is, and how generated text is judged."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from . import arithmetic, commonsense, convai2, own


class Task(NamedTuple):
    """How the outputs for a test set are judged.

    Attributes:
        answer: the answer in an output, or None where there is none; it may look at the gold
            answer's form. None for a task whose texts are compared as they are.
        right: whether an answer is the gold one.
        require: raises ``ValueError`` for a gold answer that the task cannot have.
    """

    answer: Callable[[str, str], str | None] | None
    right: Callable[[str, str], bool]
    require: Callable[[str], Any]


def _same(answer: str, gold: str) -> bool:
    return answer == gold


def _labels(*labels: str) -> Task:
    def require(gold: str) -> None:
        commonsense.answer_in("", gold)
        if labels and gold not in labels:
            raise ValueError(f"answer {gold!r} is none of {', '.join(labels)}")

    return Task(commonsense.answer_in, _same, require)


_NUMBER = Task(
    lambda text, _: arithmetic.number_in(text), arithmetic.same_number, arithmetic.require_number
)
_LETTER = Task(lambda text, _: arithmetic.letter_in(text), _same, arithmetic.require_letter)

TASKS = {
    "commonsense": _labels(),
    **{name: _labels(*labels) for name, labels in commonsense.LABELS.items()},
    "AQuA": _LETTER,
    **dict.fromkeys(("SVAMP", "gsm8k", "MultiArith", "AddSub", "SingleEq", "mawps"), _NUMBER),
    "convai2": Task(None, _same, lambda _: None),
    own.NAME: Task(None, _same, lambda _: None),
}
"""By the names of LLM-Adapters' directories; ``commonsense`` is any of its eight, and ``own`` is
scored by ``config.evaluate.metrics``: :mod:`train.tasks.own`."""

_STOPS = {"hira": ("Q:", "R:"), "convai2": ("Q:", "R:"), "llm-adapters": ("### Response:",)}


def task(name: str) -> Task:
    """The row of :data:`TASKS`.

    Raises:
        ValueError: when there is none of that name.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(TASKS)}"
        raise ValueError(f"unknown task {name!r}; {remedy}")
    return TASKS[name]


def prompt(record: Mapping[str, Any], style: str, history: int = 3, inference: bool = False) -> str:
    """The text that the model completes.

    Args:
        record: an instruction and perhaps an ``input``, or a turn of a dialogue.
        style: as ``DataConfig.prompt``.
        history: utterances of a dialogue that are kept.
        inference: as the style's authors prompt for a response, rather than train on one.
    """
    if style == "convai2":
        return convai2.prompt(record["persona"], record["history"], history)
    return commonsense.prompt(record["instruction"], record.get("input"), style, inference)


def response(record: Mapping[str, Any], style: str) -> str:
    """The text that follows the prompt at once."""
    return " " * (style == "convai2") + record["output"]


def stops(style: str) -> tuple[str, ...]:
    """Where in a generated text the next prompt would begin; nowhere after a chat template."""
    return _STOPS.get(style, ())


def cut(output: str, style: str) -> str:
    """A generated text up to where the next prompt would begin, without space around it.

    A chat template ends an answer by a token; then the text is whole.
    """
    for stop in stops(style):
        output = output.partition(stop)[0]
    return output.strip()
