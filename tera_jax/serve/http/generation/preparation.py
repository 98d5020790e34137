"""From the body of a request to what the engine takes, within the limits of the service."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tera_jax.json_files import shown
from tera_jax.serve.http.errors import ApiError
from tera_jax.serve.http.generation.answers import Choice
from tera_jax.serve.http.service import Service
from tera_jax.serve.requests import Request, Sampling

MAX_STOPS = 16
"""Stop texts of a request."""
_SLOTS = 64
_PROMPT = "a text, a list of texts, a list of token ids, or a list of such lists"


class Prepared(NamedTuple):
    """A body that was read, and the answers that it wants."""

    body: Any
    choices: list[Choice]


def prompts(service: Service, value: object, n: int) -> Sequence[Any]:
    """The prompts of a completion, each a text or a list of token ids.

    Raises:
        ApiError: for what is none, or too many.
    """
    is_one = isinstance(value, str) or (value != [] and _is_ids(value))
    found = [value] if is_one else value
    if not isinstance(found, list) or not found or not (_are_texts(found) or _are_ids(found)):
        raise ApiError(400, f"prompt is {shown(value)}; give {_PROMPT}", "prompt")
    require_count(service, len(found) * n)
    return found


def _are_texts(values: Sequence[object]) -> bool:
    return all(isinstance(each, str) for each in values)


def _are_ids(values: Sequence[object]) -> bool:
    return all(map(_is_ids, values))


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(each) is int for each in value)


def require_count(service: Service, count: int) -> None:
    """Raise ``ApiError`` for too many answers of one request."""
    most = service.limits.prompts
    if count > most:
        message = f"the request wants {count} answers, prompts times n; at most {most} at once"
        raise ApiError(400, message, "prompt")


def encoded(service: Service, prompt: str | list[int]) -> list[int]:
    """The token ids of a prompt.

    Raises:
        ApiError: for a prompt without a token, or a text that fits no slot however it is cut.
    """
    if isinstance(prompt, str):
        _require_length(service, [prompt])
        ids = _told(service.codec.encode, prompt)
    else:
        ids = prompt
    return _nonempty(ids)


def conversation(service: Service, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The token ids of a conversation whose last turn is to be answered.

    Raises:
        ApiError: for a model without a chat template, and messages that it does not take.
    """
    if not service.codec.has_template:
        message = "this model has no chat template; send a text to /v1/completions"
        raise ApiError(400, message, "messages")
    if messages[-1]["role"] == "assistant":
        message = "the last message is the assistant's; leave out the one to be generated"
        raise ApiError(400, message, "messages")
    _require_length(service, [message["content"] for message in messages])
    return _nonempty(_told(service.codec.encode, messages))


def sampling(
    service: Service,
    body: Any,
    tokens: Sequence[int],
    max_tokens: int | None,
    logprobs: int | None,
    number: int,
) -> Sampling:
    """How an answer's tokens are chosen.

    Args:
        service: whose limits hold.
        body: of a completion or a chat.
        tokens: of the prompt.
        max_tokens: of the answer; None for as many as there is room for.
        logprobs: how many; None for none.
        number: of the answer among the ``n`` of its prompt. Each draws from a seed of its own.

    Raises:
        ApiError: that names the field.
    """
    room = service.engine.max_length - len(tokens)
    if room < 0 or (room == 0 and max_tokens != 0):
        message = (
            f"the prompt has {len(tokens):,} tokens, and prompt and answer together have at most "
            f"{service.engine.max_length:,} here; shorten it"
        )
        raise ApiError(400, message, "prompt", "context_length_exceeded")
    most = room if service.limits.max_tokens is None else min(room, service.limits.max_tokens)
    if max_tokens is not None and max_tokens > most:
        message = (
            f"max_tokens is {max_tokens:,}, but after a prompt of {len(tokens):,} tokens an answer "
            f"has at most {most:,} here; give less"
        )
        raise ApiError(400, message, "max_tokens", "context_length_exceeded")
    try:
        return Sampling(
            max_tokens=most if max_tokens is None else max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=max(0, body.top_k) if body.top_k == -1 else body.top_k,  # -1: all, as in vLLM
            seed=None if body.seed is None else _shifted(body.seed, number),
            stop_ids=tuple(body.stop_token_ids),
            logprobs=logprobs,
            ignore_eos=body.ignore_eos,
        )
    except ValueError as error:
        raise _named(error) from None


def _shifted(seed: int, number: int) -> int:
    """Another seed for each number, within 64 bits."""
    return seed if number == 0 else (seed + number + 2**63) % 2**64 - 2**63


def request(
    service: Service,
    tokens: Sequence[int],
    adapter: str | None,
    how: Sampling,
    echo_logprobs: int | None = None,
) -> Request:
    """The request to the engine.

    Raises:
        ApiError: for a token that is none.
    """
    for id_ in tokens:
        if not 0 <= id_ < service.engine.vocabulary:
            message = f"token {id_} is not of the vocabulary of {service.engine.vocabulary:,}"
            raise ApiError(400, f"{message}; give ids of this model's tokenizer", "prompt")
    try:
        return Request(tuple(tokens), adapter, how, echo_logprobs)
    except ValueError as error:
        raise _named(error) from None


def stops(body: Any) -> tuple[str, ...]:
    """Texts that end an answer.

    Raises:
        ApiError: for too many.
    """
    if len(body.stops) > MAX_STOPS:
        message = f"stop has {len(body.stops)} texts; give at most {MAX_STOPS}"
        raise ApiError(400, message, "stop")
    return tuple(body.stops)


def require_size(service: Service, choices: Sequence[Choice]) -> None:
    """Raise ``ApiError`` for more tokens in one request than the service takes."""
    limit = service.limits.request_tokens or _SLOTS * service.engine.max_length
    sizes = [len(each.request.tokens) + each.request.sampling.max_tokens for each in choices]
    if sum(sizes) > limit:
        message = (
            f"the request may take {sum(sizes):,} tokens, prompts and answers together; at most "
            f"{limit:,} at once"
        )
        raise ApiError(400, message, "max_tokens")


def _require_length(service: Service, texts: Sequence[str]) -> None:
    """A text that no tokenizer could make short enough is not cut into tokens at all."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    most = service.codec.longest * service.engine.max_length
    if size > most:
        message = (
            f"the prompt has {size:,} bytes, which are more than {service.engine.max_length:,} "
            "tokens; shorten it"
        )
        raise ApiError(400, message, "prompt", "context_length_exceeded")


def _nonempty(ids: Sequence[int]) -> list[int]:
    if not ids:
        raise ApiError(400, "the prompt is empty: it has no token; write something", "prompt")
    return [*ids]


def _told(encode: Any, prompt: Any) -> list[int]:
    try:
        return [*encode(prompt)]
    except (ValueError, TypeError) as error:
        raise ApiError(400, str(error), "prompt") from None


_FIELDS = {field.name for field in dataclasses.fields(Sampling)}


def _named(error: ValueError) -> ApiError:
    """Of an error that begins with its field."""
    name = str(error).partition(" ")[0]
    return ApiError(400, str(error), name if name in _FIELDS else None)
