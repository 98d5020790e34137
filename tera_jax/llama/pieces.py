"""Token ids to pieces of text as they come, and where a text stops."""

from collections.abc import Callable, Iterable, Iterator, Sequence

_CUT = "�"
"""What stands for bytes that are no character, or not yet one."""


class Detokenizer:
    """Token ids to text, each piece as soon as later tokens cannot change it.

    A token's text may depend on those before it: bytes that make one character together, and the
    space of SentencePiece that the first word loses. So a token is decoded together with those of
    the piece before it. Joined, the pieces are ``decode`` of all ids.

    Args:
        decode: of token ids to text.
        holds: whether a token leaves the text before it open. So do SentencePiece's bytes: those
            that follow each other are decoded together. Special tokens that have no text do too,
            where bytes may go on behind them.
        before: token ids whose text the pieces go on with; they are no part of it.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        holds: Callable[[int], bool] | None = None,
        before: Sequence[int] = (),
    ) -> None:
        self._decode, self._holds = decode, holds
        self._ids, self._given = [*before], decode([*before]) if before else ""
        if not self._given or self._is_open(self._given, before[-1]):
            self._ids, self._given = [], ""
        self._read = len(self._ids)

    def push(self, id_: int) -> str:
        """The text that is certain with one more token; it may be empty."""
        self._ids.append(id_)
        text, given = self._decode(self._ids), self._given
        if self._is_open(text, id_) or not text.startswith(given) or len(text) == len(given):
            return ""
        latest = self._ids[self._read :]
        # Alone they may have no text, as a blank that a first word loses: then they need more.
        if alone := self._decode(latest):
            self._ids, self._given = latest, alone
        else:
            self._given = text
        self._read = len(self._ids)
        return text[len(given) :]

    def rest(self) -> str:
        """What is left at the end: a text that ends within a character has it."""
        text = self._decode(self._ids) if len(self._ids) > self._read else self._given
        piece, self._given, self._read = text[len(self._given) :], text, len(self._ids)
        return piece

    def _is_open(self, text: str, last: int) -> bool:
        return text.endswith(_CUT) or (self._holds is not None and self._holds(last))


class StopTexts:
    """Pieces of a text up to where the first of some texts begins, which is left out.

    Args:
        stop: the texts; an empty one is ignored.

    Attributes:
        found: whether one has come. Nothing is to follow then.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [text for text in stop if text]
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """What is certain with one more piece: the beginning of a stop text is held back."""
        if not self._stop:
            return piece
        self._held += piece
        places = [place for text in self._stop if (place := self._held.find(text)) >= 0]
        if places:
            self.found = True
            ready, self._held = self._held[: min(places)], ""
            return ready
        keep = max(_beginning(self._held, text) for text in self._stop)
        cut = len(self._held) - keep
        ready, self._held = self._held[:cut], self._held[cut:]
        return ready

    def rest(self) -> str:
        """What was held back, where the text ends without a stop text."""
        ready, self._held = self._held, ""
        return ready


def pieces(
    ids: Iterable[int],
    decode: Callable[[list[int]], str],
    holds: Callable[[int], bool] | None = None,
) -> Iterator[str]:
    """The text of token ids, piece by piece; see :class:`Detokenizer`.

    Yields:
        pieces, none of them empty, which joined are ``decode`` of all ids.
    """
    text = Detokenizer(decode, holds)
    for id_ in ids:
        if piece := text.push(id_):
            yield piece
    if piece := text.rest():
        yield piece


def until(given: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """Pieces of a text up to where the first of the stop texts begins; see :class:`StopTexts`."""
    text = StopTexts(stop)
    for piece in given:
        if ready := text.push(piece):
            yield ready
        if text.found:
            return
    if ready := text.rest():
        yield ready


def _beginning(text: str, stop: str) -> int:
    """Characters at the end of ``text`` that ``stop`` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
