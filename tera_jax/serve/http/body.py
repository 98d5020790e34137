"""The body of a request: JSON within limits of size and time."""

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request

from tera_jax import json_files
from tera_jax.serve.http.errors import ApiError
from tera_jax.serve.http.service import Limits

_DRAINED = 16
"""Times the limit that is read and thrown away, so that a client sees the answer."""
_REMEDY = "send one JSON object"


async def read(request: Request, limits: Limits) -> bytes:
    """The bytes of a body.

    Raises:
        ApiError: 413 above the limit, 408 for a body that does not come, 415 for another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"the body has type {kind[:80]!r}; send JSON with Content-Type: application/json"
        raise ApiError(415, message)
    most, size, chunks = limits.body_bytes, 0, []
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= most:
                    chunks.append(chunk)
                elif size > _DRAINED * most:
                    break
    except TimeoutError:
        message = f"the body did not come within {limits.body_seconds:g} s; send it at once"
        raise ApiError(408, message, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise ApiError(400, "the connection ended before the body; send it whole") from None
    if size > most:
        message = f"the body has more than {most:,} bytes; send less at once"
        raise ApiError(413, message, headers={"Connection": "close"})
    return b"".join(chunks)


def parsed(data: bytes) -> dict[str, Any]:
    """The object of a body, without the keys that are null.

    Raises:
        ApiError: 400 for what is no JSON, or no object.
    """
    try:
        content = json_files.parse(data, "the body", _REMEDY)
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    return {name: value for name, value in content.items() if value is not None}
