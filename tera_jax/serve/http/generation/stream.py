"""Responses that end with their client: objects of JSON, and events that the server sends."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from tera_jax.serve.http.errors import ApiError
from tera_jax.serve.http.generation.answers import Answers

_DONE = b"data: [DONE]\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # routers such as nginx hand each event on at once
]
_Result = TypeVar("_Result")


class Whole:
    """A response of one JSON object, made when all answers have ended.

    Args:
        answers: that are cancelled when the client leaves.
        make: the object.
    """

    def __init__(self, answers: Answers, make: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._answers, self._make = answers, make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        try:
            found = await _while_there(receive, self._make())
            if found is not None:
                await JSONResponse(found)(scope, receive, send)
        except ApiError as error:
            await error.response()(scope, receive, send)
        finally:
            self._answers.cancel()


class Events:
    """A response of server-sent events, each an object of JSON, with ``[DONE]`` at the end.

    An error that comes when the response has begun is an event too.

    Args:
        answers: that are cancelled when the client leaves.
        events: the objects.
    """

    def __init__(self, answers: Answers, events: AsyncIterator[dict[str, Any]]) -> None:
        self._answers, self._events = answers, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await _while_there(receive, self._send(send))
        except OSError:  # the client has left
            return
        finally:
            self._answers.cancel()

    async def _send(self, send: Send) -> None:
        try:
            async for event in self._events:
                await _body(send, _line(event))
            await _body(send, _DONE)
        except ApiError as error:
            await _body(send, _line(error.body()))
        await _body(send, b"", more=False)


async def _while_there(receive: Receive, work: Awaitable[_Result]) -> _Result | None:
    """The result of some work; None when the client left before, and the work was cancelled."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_leave(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, gone):
            if not each.done():
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await each


async def _leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(send: Send, data: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


def _line(event: dict[str, Any]) -> bytes:
    text = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return b"data: " + text.encode() + b"\n\n"
