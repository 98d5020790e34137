"""``/v1/completions``: texts or token ids that the model goes on with."""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from tera_jax.serve.http.body import parsed
from tera_jax.serve.http.generation import logprobs, preparation, schema
from tera_jax.serve.http.generation.answers import Answers, Choice, Update
from tera_jax.serve.http.generation.preparation import Prepared
from tera_jax.serve.http.generation.usage import Usage
from tera_jax.serve.http.service import Service


def prepare(service: Service, data: bytes) -> Prepared:
    """What a body asks for.

    Raises:
        ApiError: that names what is wrong.
    """
    body = schema.read(schema.CompletionBody, parsed(data))
    adapter = service.adapter(body.model)
    choices = []
    for prompt in preparation.prompts(service, body.prompt, body.n):
        tokens = preparation.encoded(service, prompt)
        echo = None
        if body.echo:
            echo = prompt if isinstance(prompt, str) else service.codec.decode(tokens)
        for number in range(body.n):
            request = preparation.request(
                service,
                tokens,
                adapter,
                preparation.sampling(service, body, tokens, body.max_tokens, body.logprobs, number),
                echo_logprobs=body.logprobs if body.echo else None,
            )
            choices.append(Choice(request, preparation.stops(body), tuple(tokens), echo))
    preparation.require_size(service, choices)
    return Prepared(body, choices)


class Completion:
    """The response to one body.

    Args:
        service: that answers.
        prepared: the body and its choices.
        answers: to the choices.
    """

    def __init__(self, service: Service, prepared: Prepared, answers: Answers) -> None:
        self._codec, self._answers = service.codec, answers
        self._body: schema.CompletionBody = prepared.body
        self._usage = Usage(prepared.choices, self._body)
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._body.model,
        }

    async def whole(self) -> dict[str, Any]:
        """All answers."""
        updates = await self._answers.joined()
        for update in updates:
            self._usage.add(update)
        choices = [self._choice(update) for update in updates]
        return {**self._head, "choices": choices, "usage": self._usage.counts()}

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """An object for each piece of an answer."""
        async for update in self._answers.updates():
            self._usage.add(update)
            yield {**self._head, "choices": [self._choice(update)], **self._usage.field}
        for event in self._usage.last(self._head):
            yield event

    def _choice(self, update: Update) -> dict[str, Any]:
        wanted = self._body.logprobs is not None
        return {
            "index": update.index,
            "text": update.text,
            "logprobs": logprobs.of_completion(self._codec, update.tokens) if wanted else None,
            "finish_reason": update.reason,
        }
