r"""The choices of a commonsense record, for scoring by likelihood instead of by generation.

Two forms: the answers that the record format asks for (*label*), and the texts of the choices
(*cloze*) in the prompts of lm-evaluation-harness (EleutherAI, v0.4). A record does not name its
task, so all questions get the prompt of ARC; lm-evaluation-harness gives OpenBookQA the question
alone, and Social IQa ``Q: ...\nA:``.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from . import commonsense

_FORMAT = re.compile(r"\s*Answer format: (\S+)\s*$")
_YES_NO = {"true": "yes", "false": "no"}
_BLANK = "_"


class _Parts(NamedTuple):
    """Of an instruction: the labels, the question or sentence, and the texts, if it has any."""

    labels: list[str]
    stem: str
    texts: list[str]


def labels(record: Mapping[str, Any]) -> list[str]:
    r"""The responses among which the record's ``output`` is, in the order of the instruction.

    Raises:
        ValueError: when the instruction does not list its choices as the format does.

    Example:
        >>> labels({"instruction": "Please ... question: is it?\n\nAnswer format: true/false"})
        ['the correct answer is true', 'the correct answer is false']
    """
    return [f"the correct answer is {label}" for label in _parts(record).labels]


def texts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    r"""A context and the continuation to score for each choice, in the order of :func:`labels`.

    - answers and solutions: ``Question: ...\nAnswer:``, then the text of the choice;
    - endings: the sentence, then the ending;
    - true/false: ``Question: ...\nAnswer:``, then ``yes`` or ``no``, which the questions ask for;
      the records carry no passage;
    - options: the sentence up to its blank and the option in its place, then the rest of the
      sentence, the same for both: partial evaluation (Trinh and Le, arXiv:1806.02847).

    A continuation begins with a space.

    Raises:
        ValueError: as :func:`labels`, for options without a blank, and for a record with an
            ``input``, which these prompts do not have.
    """
    if (record.get("input") or "").strip():
        raise ValueError(
            f"the record has an input, {record['input']!r}, which the texts of choices leave out; "
            "compare labels"
        )
    found, stem, choices = _parts(record)
    question = f"Question: {stem}\nAnswer:"
    if found[0] in _YES_NO:
        return [(question, f" {_YES_NO[label]}") for label in found]
    if found[0].startswith("option"):
        before, blank, after = stem.partition(_BLANK)
        if not blank:
            raise ValueError(f"the sentence has no blank '{_BLANK}' to fill in: {stem!r}")
        return [(before + choice, f" {after.strip()}") for choice in choices]
    context = stem if found[0].startswith("ending") else question
    return [(context, f" {choice}") for choice in choices]


def gold(record: Mapping[str, Any]) -> int:
    """The index of the right choice.

    Raises:
        ValueError: as :func:`labels`, and when ``answer`` is none of them.
    """
    found = _parts(record).labels
    if record["answer"] not in found:
        raise ValueError(
            f"answer {record['answer']!r} is none of {', '.join(found)}, which the instruction "
            "lists; correct the record"
        )
    return found.index(record["answer"])


def _parts(record: Mapping[str, Any]) -> _Parts:
    """``<request>: <stem> Answer1: <text> Answer2: <text> Answer format: answer1/answer2``."""
    instruction = record["instruction"]
    hint = _FORMAT.search(instruction)
    if hint is None:
        raise ValueError(f"the instruction does not end in 'Answer format: ...': {instruction!r}")
    found = hint[1].split("/")
    for label in found:
        commonsense.answer_in("", label)  # refuses what is not of the format
    marks = [] if found[0] in _YES_NO else [f"{label.capitalize()}:" for label in found]
    pattern = r"[^:]*:\s(.*?)" + "".join(rf"\s+{mark}(.*?)" for mark in marks)
    match = re.fullmatch(pattern, instruction[: hint.start()], re.DOTALL)
    if match is None or not all(group.strip() for group in match.groups()):
        raise ValueError(
            f"the instruction lacks its question or one of {', '.join(marks) or 'its parts'} "
            f"with a text: {instruction!r}"
        )
    stem, *choices = (group.strip() for group in match.groups())
    return _Parts(found, stem, choices)
