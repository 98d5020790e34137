"""Logprobs in the shapes of OpenAI's two endpoints."""

from collections.abc import Iterable
from typing import Any

from tera_jax.serve.http.codec import Codec
from tera_jax.serve.http.generation.answers import Placed

_LEAST = -9999.0
"""What stands for a probability of zero, since JSON has no infinity."""


def of_completion(codec: Codec, tokens: Iterable[Placed]) -> dict[str, Any]:
    """Lists of tokens, their logprobs, the most likely ones by their text, and their offsets."""
    result: dict[str, list[Any]] = {
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [],
        "text_offset": [],
    }
    for (id_, logprob, top), offset in tokens:
        result["tokens"].append(codec.text_of(id_))
        result["text_offset"].append(offset)
        result["token_logprobs"].append(_finite(logprob))
        if logprob is None:
            result["top_logprobs"].append(None)
            continue
        # Tokens that have the same text, such as parts of characters, count with the likelier.
        likely: dict[str, float | None] = {}
        for other, value in (*top, (id_, logprob)):
            likely.setdefault(codec.text_of(other), _finite(value))
        result["top_logprobs"].append(likely)
    return result


def of_chat(codec: Codec, tokens: Iterable[Placed], top: int) -> dict[str, Any]:
    """A list of tokens, each with its bytes and with as many of the most likely."""
    content = [
        {
            **_token(codec, token.id, token.logprob),
            "top_logprobs": [_token(codec, id_, value) for id_, value in token.top[:top]],
        }
        for token, _ in tokens
    ]
    return {"content": content, "refusal": None}


def _token(codec: Codec, id_: int, logprob: float | None) -> dict[str, Any]:
    return {
        "token": codec.text_of(id_),
        "logprob": _finite(logprob),
        "bytes": [*codec.bytes_of(id_)],
    }


def _finite(logprob: float | None) -> float | None:
    """A number that JSON can hold."""
    if logprob is None:
        return None
    return logprob if logprob >= _LEAST else _LEAST
