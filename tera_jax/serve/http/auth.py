"""The API key."""

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from tera_jax.serve.http.errors import ApiError

_PROTECTED = "/v1/"


class Keyed:
    """Middleware that refuses requests to ``/v1/`` without the key.

    Args:
        app: inside.
        key: that clients send as ``Authorization: Bearer KEY``.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        is_open = scope["type"] != "http" or not f"{scope['path']}/".startswith(_PROTECTED)
        if is_open or self._is_given(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401,
            "the API key is missing or wrong; send Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer", "Connection": "close"},
        )
        await error.response()(scope, receive, send)

    def _is_given(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, key = (given[0] if len(given) == 1 else b"").partition(b" ")
        # In constant time, so that a wrong key does not tell how much of it is right.
        return hmac.compare_digest(key.strip(), self._key) and scheme.lower() == b"bearer"
