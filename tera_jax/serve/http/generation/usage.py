"""How many tokens a request has taken."""

from collections.abc import Sequence

from tera_jax.serve.http.generation.answers import Choice, Update


class Usage:
    """Of one HTTP request.

    Args:
        choices: of the request; ``n`` that follow each other have one prompt.
        n: answers to a prompt.
    """

    def __init__(self, choices: Sequence[Choice], n: int) -> None:
        self._prompt = sum(len(choice.request.tokens) for choice in choices[::n])
        self._new: dict[int, int] = {}

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
