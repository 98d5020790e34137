"""``/v1/models``, and what takes adapters out of service and back."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tera_jax.serve.http import body
from tera_jax.serve.http.errors import ApiError, unknown_model
from tera_jax.serve.http.generation import schema
from tera_jax.serve.http.service import Service

_PAGE = 100
_MOST = 1000
_CHANGES_ARE_OFF = "adapters are not changed here; start the server with --allow-adapter-changes"


async def page(service: Service, request: Request) -> Response:
    """The base, then the adapters in the order of their names, ``limit`` of them after one."""
    after, limit = request.query_params.get("after", ""), _limit(request)
    found, has_more = await asyncio.to_thread(_page, service, after, limit)
    ids = [model["id"] for model in found]
    return JSONResponse(
        {
            "object": "list",
            "data": found,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
            "has_more": has_more,
        }
    )


async def one(service: Service, request: Request) -> Response:
    """One model by its name."""
    name = request.path_params["name"]
    if name != service.base and not await asyncio.to_thread(service.has, name):
        raise unknown_model(name)
    return JSONResponse(_model(service, name))


async def load(service: Service, request: Request) -> Response:
    """Serve an adapter of the store that was unloaded."""
    name = await _named(service, request)
    if not await asyncio.to_thread(service.stores, name):
        raise unknown_model(name)
    service.hidden.discard(name)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")


async def unload(service: Service, request: Request) -> Response:
    """Serve an adapter no more in this process; the store keeps it, and answers under way end."""
    name = await _named(service, request)
    if not await asyncio.to_thread(service.has, name):
        raise unknown_model(name)
    service.hidden.add(name)
    return PlainTextResponse(
        f"Success: LoRA adapter '{name}' removed successfully. This holds for this server until it "
        "ends; other servers of the store go on with it."
    )


async def _named(service: Service, request: Request) -> str:
    if not service.adapter_changes:
        raise ApiError(403, _CHANGES_ARE_OFF)
    data = await body.read(request, service.limits)
    found = schema.read(schema.AdapterBody, body.parsed(data))
    if found.lora_path not in (None, "", found.lora_name):
        message = (
            "lora_path is a path, and adapters come from the store by their name alone; leave it "
            "out, and put the adapter into the store"
        )
        raise ApiError(400, message, "lora_path")
    return found.lora_name


def _page(service: Service, after: str, limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Models of a page, and whether others follow."""
    found = [] if after else [service.base]
    last = "" if after == service.base else after
    while len(found) <= limit:
        names = service.engine.adapters(last, limit + 1)
        found += [name for name in names if name not in service.hidden and name != service.base]
        if len(names) <= limit:
            break
        last = names[-1]
    return [_model(service, name) for name in found[:limit]], len(found) > limit


def _model(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "tera-jax",
        "root": service.base,
        "parent": None if name == service.base else service.base,
    }


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(_PAGE))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0
    if not 1 <= limit <= _MOST:
        raise ApiError(400, f"limit is {text[:80]!r}; give a number from 1 to {_MOST}", "limit")
    return limit
