"""The endpoints, put together."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from tera_jax.serve.http import body, models
from tera_jax.serve.http.auth import Keyed
from tera_jax.serve.http.errors import ApiError, closing
from tera_jax.serve.http.generation import chat, completions
from tera_jax.serve.http.generation.answers import Answers
from tera_jax.serve.http.generation.stream import Events, Whole
from tera_jax.serve.http.metrics import Counted
from tera_jax.serve.http.service import Service

Endpoint = Callable[[Service, Request], Awaitable[Any]]
_PAGE = Path(__file__).parent / "page"
_FILES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_WORKERS = 2
"""Threads that read bodies and cut prompts into tokens, beside the event loop."""


def build(service: Service) -> Starlette:
    """The application that a server runs.

    Args:
        service: that answers. Its engine is closed by who has made it.
    """
    workers = ThreadPoolExecutor(_WORKERS, "tera-http")
    routes = [
        _route(service, "/v1/models", models.page),
        _route(service, "/v1/models/{name:path}", models.one),
        _route(service, "/v1/load_lora_adapter", models.load, "POST"),
        _route(service, "/v1/unload_lora_adapter", models.unload, "POST"),
        _answers(service, workers, "/v1/completions", completions),
        _answers(service, workers, "/v1/chat/completions", chat),
        _route(service, "/health", _health),
        _route(service, "/metrics", _metrics),
        *(Route(path, functools.partial(_file, name)) for path, name in _FILES.items()),
    ]
    middleware = [Middleware(Counted, metrics=service.metrics)]
    if service.api_key is not None:
        middleware.append(Middleware(Keyed, key=service.api_key))
    service.metrics.read_engine(service.engine.stats)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        workers.shutdown(wait=False, cancel_futures=True)

    return Starlette(
        routes=routes,
        middleware=middleware,
        lifespan=lifespan,
        exception_handlers={ApiError: _told, HTTPException: _http, Exception: _bug},
    )


def _route(service: Service, path: str, endpoint: Endpoint, method: str = "GET") -> Route:
    return Route(path, functools.partial(endpoint, service), methods=[method])


def _answers(service: Service, workers: ThreadPoolExecutor, path: str, kind: Any) -> Route:
    """The route of completions or of chats."""
    make = kind.Completion if kind is completions else kind.Chat

    async def endpoint(request: Request) -> Any:
        if service.closing.is_set():
            raise closing()
        data = await body.read(request, service.limits)
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(workers, kind.prepare, service, data)
        answers = Answers(service, prepared.choices)
        response = make(service, prepared, answers)
        if prepared.body.stream:
            return Events(answers, response.events())
        return Whole(answers, response.whole)

    return Route(path, endpoint, methods=["POST"])


async def _health(service: Service, request: Request) -> Response:
    is_closing = service.closing.is_set() or service.engine.closed
    status = "closing" if is_closing else "ok"
    return JSONResponse({"status": status}, 503 if is_closing else 200)


async def _metrics(service: Service, request: Request) -> Response:
    text = await asyncio.to_thread(service.metrics.text)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _file(name: str, request: Request) -> Response:
    return FileResponse(_PAGE / name, headers=_PAGE_HEADERS)


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return ApiError(error.status_code, message, headers=error.headers).response()


async def _bug(request: Request, error: Exception) -> Response:
    return ApiError(500, "the server has made a mistake; its log has more").response()
