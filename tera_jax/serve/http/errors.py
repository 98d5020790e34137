"""Errors of requests, in the shape of OpenAI's API."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from tera_jax.serve.requests import (
    BusyError,
    ClosedError,
    InvalidRequestError,
    UnknownAdapterError,
)

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_RETRY = {"Retry-After": "1"}


class ApiError(Exception):
    """What a client is told in place of an answer.

    Args:
        status: of HTTP.
        message: names the value and the remedy.
        param: the field that is wrong, if it is one.
        code: a word for programs.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The object that stands in the response, or in an event of a stream."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": str(self),
            "type": _TYPES.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def response(self) -> JSONResponse:
        """The whole response."""
        return JSONResponse(self.body(), self.status, self.headers)


def unknown_model(name: object) -> ApiError:
    """404 for a model that is neither the base nor an adapter."""
    shown = repr(name)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    message = f"the model {shown} does not exist; GET /v1/models lists those that do"
    return ApiError(404, message, "model", "model_not_found")


def of_engine(error: Exception) -> ApiError:
    """What a client is told of an error of ``Engine.submit``.

    Raises:
        Exception: the error itself, where it is none of the protocol's.
    """
    if isinstance(error, BusyError):
        message = "the server is busy and its queue is full; send the request again later"
        return ApiError(429, message, code="busy", headers=_RETRY)
    if isinstance(error, ClosedError):
        return closing()
    if isinstance(error, UnknownAdapterError):
        return ApiError(404, str(error), "model", "model_not_found")
    if isinstance(error, InvalidRequestError):
        return ApiError(400, str(error))
    raise error


def closing() -> ApiError:
    """503 while the server ends."""
    message = "the server shuts down; send the request to another one, or later"
    return ApiError(503, message, code="closing", headers={**_RETRY, "Connection": "close"})
