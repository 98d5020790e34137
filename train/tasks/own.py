"""A task of one's own: how an output is scored against its right answers.

A score is from 0 to 1, and a metric is the mean over the questions. Of several right answers the
best counts. A metric may be a function of the user: ``module:function``, imported from where Python
imports, the directory of the command among others. It is called as ``function(output, record)``
with the text and the whole record, and gives a number or a truth value.
"""

import importlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from . import arithmetic

NAME = "own"
"""Of the task."""

LOSS = "loss"
"""The metric that needs no output: the held-out loss of the first right answer after its prompt, in
nats a token."""

Score = Callable[[str, Sequence[str], Mapping[str, Any]], float]
"""Of an output, its right answers and its record."""


def exact(output: str, golds: Sequence[str], _: Mapping[str, Any]) -> float:
    """Whether the output is an answer, but for white space. Case counts."""
    return float(any(_words(output) == _words(gold) for gold in golds))


def contains(output: str, golds: Sequence[str], _: Mapping[str, Any]) -> float:
    """Whether an answer is somewhere in the output, but for white space and case."""
    text = " ".join(_words(output)).casefold()
    return float(any(" ".join(_words(gold)).casefold() in text for gold in golds))


def number(output: str, golds: Sequence[str], _: Mapping[str, Any]) -> float:
    """Whether the last number of the output is the last one of an answer, within 0.001."""
    found = arithmetic.number_in(output)
    numbers = [gold for text in golds if (gold := arithmetic.number_in(text)) is not None]
    return float(found is not None and any(arithmetic.same_number(found, gold) for gold in numbers))


def choice(output: str, golds: Sequence[str], record: Mapping[str, Any]) -> float:
    """Whether the first of the record's ``choices`` in the output, as a word, is an answer.

    Case counts for choices of one letter: "a" is a word of its own.
    """
    return float(_first_choice(output, record["choices"]) in golds)


def rouge_l(output: str, golds: Sequence[str], _: Mapping[str, Any]) -> float:
    """The F-measure of ROUGE-L, by rouge-score without stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    score = RougeScorer(["rougeL"]).score_multi([*golds], output)["rougeL"]
    return float(score.fmeasure)


METRICS: dict[str, Score] = {
    "exact": exact,
    "contains": contains,
    "number": number,
    "choice": choice,
    "rouge_l": rouge_l,
}
"""By the names of ``config.evaluate.metrics``."""


def require_names(names: Sequence[str]) -> None:
    """Raise ``ValueError`` for no metric, one that comes twice, or one that there is not."""
    known = ", ".join([*METRICS, LOSS])
    if not scored(names):
        raise ValueError(
            f"metrics is {', '.join(names) or 'empty'}; name one that scores outputs: {known}"
        )
    for name in scored(names):
        if name not in METRICS and not re.fullmatch(r"[\w.]+:\w+", name):
            raise ValueError(
                f"metrics has {name!r}; choose from {known}, or name a function of yours as "
                "module:function"
            )
    if len({*names}) < len(names):
        raise ValueError(f"metrics has a name twice: {', '.join(names)}")


def scored(names: Iterable[str]) -> list[str]:
    """The metrics that score an output."""
    return [name for name in names if name != LOSS]


def answered(record: Mapping[str, Any], gold: str, style: str) -> dict[str, Any]:
    """A record with its answer, of the kind that a run of ``config.data.prompt`` trains on."""
    if "messages" in record:
        turns = list(record["messages"])
    elif "prompt" in record:
        turns = [{"role": "user", "content": record["prompt"]}]
    else:  # of the run's own kind
        return {**record, "output": gold}
    said = [turn["content"] for turn in turns if turn["role"] != "system"]
    if style == "convai2":
        persona = [turn["content"] for turn in turns if turn["role"] == "system"]
        return {"persona": persona, "history": said, "output": gold}
    if style == "plain":
        return {"prompt": said[-1], "completion": gold}
    if style == "auto":
        return {"messages": [*turns, {"role": "assistant", "content": gold}]}
    return {"instruction": said[-1], "output": gold}


def load(name: str) -> Score:
    """The function of a metric.

    Raises:
        ImportError: for a metric whose library, or a module of the user's, cannot be imported.
        ValueError: for a module without the function.
    """
    if name in METRICS:
        if name == "rouge_l":
            try:
                importlib.import_module("rouge_score")
            except ImportError as error:
                raise ImportError(
                    f"the metric rouge_l needs pip install 'tera-jax[evaluate]' ({error})"
                ) from error
        return METRICS[name]
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ImportError(
            f"the metric {name!r} cannot be imported ({error}); start the command in the directory "
            f"of {module_name.partition('.')[0]}.py, or set PYTHONPATH"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"the metric {name!r}: {module.__file__} has no function {function_name}")

    def score(output: str, golds: Sequence[str], record: Mapping[str, Any]) -> float:
        del golds  # the record has them, as the file does
        value = function(output, dict(record))
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(
                f"the metric {name!r} gave {value!r} for the output {output[:40]!r}; it must give "
                "a finite number or a truth value"
            )
        return float(value)

    return score


def origin(name: str) -> str | None:
    """The file of a user's function; None for a metric of this table."""
    if name in METRICS:
        return None
    return importlib.import_module(name.partition(":")[0]).__file__


def golds_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The right answers of a record: a text, a number, or a list of them under ``answer``.

    Raises:
        ValueError: beginning with a verb, for a record without one.
    """
    given = record.get("answer")
    listed = given if isinstance(given, list) else [given]
    plain = [isinstance(each, str | int | float) and not isinstance(each, bool) for each in listed]
    texts = [str(each) for each in listed]
    if not listed or not all(plain) or not all(map(str.strip, texts)):
        raise ValueError("has no text, number or list of them in field 'answer'")
    return tuple(texts)


def require(record: Mapping[str, Any], golds: Sequence[str], names: Iterable[str]) -> None:
    """Raise ``ValueError`` for a record that a metric cannot score, beginning with a verb."""
    for name in names:
        if name == "number" and any(arithmetic.number_in(gold) is None for gold in golds):
            raise ValueError(f"has no number in its answer {golds[0]!r}, which metric number needs")
        if name == "choice":
            choices = record.get("choices")
            texts = isinstance(choices, list) and all(isinstance(each, str) for each in choices)
            if not texts or not choices:
                raise ValueError(
                    "has no list of texts in field 'choices', which metric choice needs"
                )
            missing = [gold for gold in golds if gold not in choices]
            if missing:
                raise ValueError(f"has the answer {missing[0]!r}, which is none of its choices")


def _words(text: str) -> list[str]:
    return text.split()


def _first_choice(output: str, choices: Sequence[str]) -> str | None:
    found: list[tuple[int, int, str]] = []
    for each in choices:
        flags = re.IGNORECASE if len(each) > 1 else 0
        match = re.search(rf"(?<!\w){re.escape(each)}(?!\w)", output, flags)
        if match is not None:
            found.append((match.start(), -len(each), each))  # of those at one place the longest
    return min(found)[2] if found else None
