"""``/v1/chat/completions``: conversations, by the chat template of the tokenizer."""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from tera_jax.serve.http.body import parsed
from tera_jax.serve.http.errors import ApiError
from tera_jax.serve.http.generation import logprobs, preparation, schema
from tera_jax.serve.http.generation.answers import Answers, Choice
from tera_jax.serve.http.generation.preparation import Prepared
from tera_jax.serve.http.generation.usage import Usage
from tera_jax.serve.http.service import Service


def prepare(service: Service, data: bytes) -> Prepared:
    """What a body asks for.

    Raises:
        ApiError: that names what is wrong.
    """
    body = schema.read(schema.ChatBody, parsed(data))
    adapter = service.adapter(body.model)
    tokens = preparation.conversation(service, [message.plain() for message in body.messages])
    preparation.require_count(service, body.n)
    top = body.top_logprobs
    if top is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs=true; set it", "top_logprobs")
    chosen = (top or 0) if body.logprobs else None
    choices = []
    for number in range(body.n):
        request = preparation.request(
            service,
            tokens,
            adapter,
            preparation.sampling(service, body, tokens, _most(body), chosen, number),
        )
        choices.append(Choice(request, preparation.stops(body)))
    preparation.require_size(service, choices)
    return Prepared(body, choices)


def _most(body: schema.ChatBody) -> int | None:
    given = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(given) > 1:
        message = "max_tokens and max_completion_tokens are different; give one of them"
        raise ApiError(400, message, "max_completion_tokens")
    return next(iter(given), None)


class Chat:
    """The response to one body.

    Args:
        service: that answers.
        prepared: the body and its choices.
        answers: to the choices.
    """

    def __init__(self, service: Service, prepared: Prepared, answers: Answers) -> None:
        self._codec, self._answers = service.codec, answers
        self._body: schema.ChatBody = prepared.body
        self._usage = Usage(prepared.choices, self._body)
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self._body.model,
        }

    async def whole(self) -> dict[str, Any]:
        """All answers."""
        updates = await self._answers.joined()
        for update in updates:
            self._usage.add(update)
        choices = [
            {
                "index": update.index,
                "message": {
                    "role": "assistant",
                    "content": update.text,
                    "refusal": None,
                },
                "logprobs": self._logprobs(update.tokens),
                "finish_reason": update.reason,
            }
            for update in updates
        ]
        return {**self._head, "choices": choices, "usage": self._usage.counts()}

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """An object for each piece of an answer; the first names the role."""
        head, usage = {**self._head, "object": "chat.completion.chunk"}, self._usage.field
        new = {*range(self._body.n)}
        async for update in self._answers.updates():
            self._usage.add(update)
            if update.index in new:
                new.remove(update.index)
                first = {"role": "assistant", "content": ""}
                yield {**head, "choices": [_delta(update.index, first)], **usage}
            if update.text or update.tokens:
                choice = _delta(update.index, {"content": update.text})
                choice["logprobs"] = self._logprobs(update.tokens)
                yield {**head, "choices": [choice], **usage}
            if update.reason is not None:
                yield {**head, "choices": [_delta(update.index, {}, update.reason)], **usage}
        for event in self._usage.last(head):
            yield event

    def _logprobs(self, tokens: Any) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        return logprobs.of_chat(self._codec, tokens, self._body.top_logprobs or 0)


def _delta(index: int, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
