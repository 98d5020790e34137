"""How many tokens a request has taken."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tera_jax.serve.http.generation.answers import Choice, Update


class Usage:
    """Of one HTTP request.

    Args:
        choices: of the request; ``n`` that follow each other have one prompt.
        body: of the request, with ``n`` and ``stream_options``.

    Attributes:
        field: of every event of a stream: empty, or null where the end tells the counts.
    """

    def __init__(self, choices: Sequence[Choice], body: Any) -> None:
        self._prompt = sum(len(choice.request.tokens) for choice in choices[:: body.n])
        self._new: dict[int, int] = {}
        options = body.stream_options
        self._is_told = options is not None and options.include_usage
        self.field: dict[str, None] = {"usage": None} if self._is_told else {}

    def add(self, update: Update) -> None:
        """Count what is new."""
        self._new[update.index] = update.count

    def counts(self) -> dict[str, int]:
        """As OpenAI's API has them."""
        new = sum(self._new.values())
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": new,
            "total_tokens": self._prompt + new,
        }

    def last(self, head: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The event with the counts, which ends a stream, where it is wanted.

        Args:
            head: of every event.
        """
        if self._is_told:
            yield {**head, "choices": [], "usage": self.counts()}
