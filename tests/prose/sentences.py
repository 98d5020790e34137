"""Sentences of a text, and how many words each has."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MOST_WORDS = 35
"""A sentence of the docs, a docstring or a message has no more."""

_END = re.compile(r"[.!?][\"')\]»]*\s+(?=[^a-z\s])")
_ABBREVIATIONS = ("e.g.", "i.e.", "cf.", "vs.", "al.", "Fig.", "Sec.", "No.")
_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)


@dataclass(frozen=True)
class Piece:
    """A paragraph, an item of a list, a cell of a table or a message.

    Attributes:
        file: relative to the root.
        line: its first, from 1.
        text: with line ends where the file has them; code between backquotes.
    """

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Sentence:
    """One sentence and where it begins.

    Attributes:
        file: relative to the root.
        line: from 1.
        text: with single spaces.
        words: what stands between spaces and holds a letter or a digit, in code as in text.
    """

    file: str
    line: int
    text: str
    words: int


def of_pieces(pieces: Iterable[Piece]) -> Iterator[Sentence]:
    """The sentences of all pieces, in their order."""
    for piece in pieces:
        start = 0
        for stop in [*_ends(piece.text), len(piece.text)]:
            text = piece.text[start:stop]
            before = piece.text[:start] + text[: len(text) - len(text.lstrip())]
            words = sum(any(map(str.isalnum, word)) for word in text.split())
            line = piece.line + before.count("\n")
            yield Sentence(piece.file, line, " ".join(text.split()), words)
            start = stop


def too_long(pieces: Iterable[Piece], most: int = MOST_WORDS) -> list[Sentence]:
    """The sentences with more words than ``most``."""
    return [sentence for sentence in of_pieces(pieces) if sentence.words > most]


def _ends(text: str) -> Iterator[int]:
    """Where sentences end; a point in code ends none."""
    # Of the same length, so that places agree.
    plain = _CODE.sub(lambda found: re.sub(r"[.!?]", "_", found[0]), text)
    for found in _END.finditer(plain):
        last_word = plain[: found.start() + 1].rsplit(maxsplit=1)[-1]
        if last_word.lstrip("([") not in _ABBREVIATIONS:
            yield found.end()
