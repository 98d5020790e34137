"""Token ids to pieces of text as they come, and where a text stops."""

from collections.abc import Callable, Iterable, Iterator, Sequence

_CUT = "�"
"""What stands for bytes that are no character, or not yet one."""


def pieces(ids: Iterable[int], decode: Callable[[list[int]], str]) -> Iterator[str]:
    """The text of token ids, each piece as soon as later tokens cannot change it.

    All ids so far are decoded each time, since a token's text may depend on those before it: bytes
    that make one character together, and the space of SentencePiece that the first word loses.

    Args:
        ids: one after the other.
        decode: of token ids to text.

    Yields:
        pieces, none of them empty, which joined are ``decode`` of all ids.
    """
    seen: list[int] = []
    given = text = ""
    for id_ in ids:
        seen.append(id_)
        text = decode(seen)
        if not text.endswith(_CUT) and text.startswith(given) and len(text) > len(given):
            yield text[len(given) :]
            given = text
    if len(text) > len(given):  # it ends within a character
        yield text[len(given) :]


def until(given: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """Pieces of a text up to where the first of the stop texts begins, which is left out.

    What may be the beginning of one is held back until it is known.

    Args:
        given: the pieces.
        stop: texts; an empty one is ignored.
    """
    stop = [text for text in stop if text]
    held = ""
    for piece in given:
        held += piece
        found = [place for text in stop if (place := held.find(text)) >= 0]
        if found:
            held = held[: min(found)]
            break
        keep = max((_beginning(held, text) for text in stop), default=0)
        ready, held = held[: len(held) - keep], held[len(held) - keep :]
        if ready:
            yield ready
    if held:
        yield held


def _beginning(text: str, stop: str) -> int:
    """Characters at the end of ``text`` that ``stop`` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
