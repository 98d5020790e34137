"""A chat in a terminal."""

import builtins
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from tera_jax.llama.prompts import Message

HELP = "/base: the base or the tuned model · /reset: forget the conversation · /quit or Ctrl-D: end"


@runtime_checkable
class Speaker(Protocol):
    """What a chat needs of a model."""

    @property
    def tuned(self) -> bool:
        """Whether there is an adapter to switch off."""

    @property
    def remembers(self) -> bool:
        """Whether an answer may depend on the turns before it."""

    def reply(self, messages: Sequence[Message], base: bool) -> Iterator[str]:
        """The answer to the last message, piece by piece."""


def chat(
    speaker: Speaker,
    ask: Callable[[str], str] | None = None,
    write: Callable[..., Any] = print,
) -> list[Message]:
    """Talk until ``/quit`` or the end of the input.

    An answer is written as it is made. Ctrl-C stops it, and what was said of it stays in the
    conversation. ``/base`` switches the adapter off, and on again. A line that begins with another
    slash is refused with :data:`HELP`.

    Args:
        speaker: that answers.
        ask: for a line, after a prompt; ``input`` when None.
        write: as ``print``.

    Returns:
        The conversation since the last ``/reset``.
    """
    ask = builtins.input if ask is None else ask  # which a notebook replaces
    messages: list[Message] = []
    base = False
    write(HELP)
    if not speaker.remembers:
        write("Each line is asked alone: the prompts of this model have one turn.")
    while True:
        try:
            line = ask("base> " if base else "> ").strip()
        except EOFError:
            write()
            return messages
        except KeyboardInterrupt:
            write("\n" + HELP)
            continue
        if line == "/quit":
            return messages
        if line == "/reset":
            messages = []
            write("The conversation is forgotten.")
        elif line == "/base":
            if speaker.tuned:
                base = not base
                write(f"{'The base' if base else 'The tuned model'} answers now.")
            else:
                write("There is no adapter: the base answers.")
        elif line.startswith("/"):
            write(HELP)
        elif line:
            messages = _turn(speaker, messages, line, base, write)


def _turn(
    speaker: Speaker, before: list[Message], line: str, base: bool, write: Callable[..., Any]
) -> list[Message]:
    """The conversation after one more turn; as before where it has no room."""
    asked = {"role": "user", "content": line}
    messages = [*(before if speaker.remembers else []), asked]
    said = ""
    try:
        for piece in speaker.reply(messages, base):
            said += piece
            write(piece, end="", flush=True)
    except KeyboardInterrupt:
        write(" [stopped]", end="")
    except ValueError as error:
        write(f"error: {error}. /reset begins anew")
        return before
    write(flush=True)
    return [*messages, {"role": "assistant", "content": said}]
