"""Answers of the arithmetic tasks, by the rules of LLM-Adapters (arXiv:2304.01933)."""

import re

_NUMBER = re.compile(r"-?\d+\.?\d*")
_LETTER = re.compile(r"[A-E]")
_TOLERANCE = 1e-3


def number_in(text: str) -> str | None:
    """The last number of ``text``, commas left out beforehand, or None.

    Example:
        >>> number_in("5 boxes of 1,200 make 6,000. The answer is 6,000.")
        '6000.'
    """
    found = _NUMBER.findall(text.replace(",", ""))
    return found[-1] if found else None


def same_number(answer: str, gold: str) -> bool:
    """Whether two numbers differ by 0.001 at most."""
    return abs(float(answer) - float(gold.replace(",", ""))) <= _TOLERANCE


def require_number(gold: str) -> None:
    """Raise ``ValueError`` when ``gold`` is no number."""
    try:
        float(gold.replace(",", ""))
    except ValueError:
        raise ValueError(f"answer {gold!r} is no number") from None


def letter_in(text: str) -> str | None:
    """The first of the letters A to E anywhere in ``text``, also within a word, or None.

    Example:
        >>> letter_in("The answer is (C).")
        'C'
    """
    found = _LETTER.search(text)
    return found[0] if found else None


def require_letter(gold: str) -> None:
    """Raise ``ValueError`` when ``gold`` is none of the letters A to E."""
    if not _LETTER.fullmatch(gold):
        raise ValueError(f"answer {gold!r} is none of A, B, C, D and E")
