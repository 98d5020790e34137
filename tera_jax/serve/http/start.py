"""From the flags of the command to a server: everything is checked before weights are loaded."""

import argparse
import contextlib
import math
import sys
import time
from pathlib import Path
from typing import Any

from tera_jax import json_files
from tera_jax.serve.engine_config import EngineConfig
from tera_jax.serve.http.codec import Codec
from tera_jax.serve.http.server import Server, keep_what_is_loaded, listen
from tera_jax.serve.http.service import Limits, Service
from tera_jax.serve.requests import Engine
from tera_jax.serve.store import Store, names

_MAX_LENGTH = 2048


def run(args: argparse.Namespace) -> None:
    """Serve until a signal.

    Args:
        args: of ``python -m tera_jax.serve``.

    Raises:
        FileNotFoundError: for a model, a store or an adapter that is not there.
        ValueError: for flags that do not fit each other or the model.
    """
    with contextlib.ExitStack() as stack:
        store = _store(args)
        if store is not None:
            stack.enter_context(store)
        base = args.served_name or _last_part(args.model)
        adapter_name = None if args.adapter is None else _adapter_name(args.adapter)
        if adapter_name == base or (store is not None and _has(store, base)):
            raise ValueError(
                f"the base and an adapter both have the name {base!r}; choose --served-name"
            )
        limits = Limits(
            body_bytes=args.max_body_bytes,
            prompts=args.max_prompts,
            max_tokens=args.max_tokens,
            request_tokens=args.max_request_tokens,
        )
        if not (math.isfinite(args.drain_seconds) and args.drain_seconds >= 0):
            raise ValueError(f"--drain-seconds is {args.drain_seconds}; give a number from 0 on")
        _require_key(args)
        socket = stack.enter_context(listen(args.host, args.port))
        codec, engine = _engine(args, store, adapter_name)
        stack.callback(engine.close, drain=False)
        service = Service(
            engine,
            codec,
            base,
            limits,
            args.api_key,
            args.allow_adapter_changes,
            created=int(time.time()),
        )
        server = Server(service, args.drain_seconds)
        keep_what_is_loaded()
        socket.listen()  # who is told the address may connect, and waits for the event loop
        host = f"[{args.host}]" if ":" in args.host else args.host
        adapters = (
            adapter_name if store is None else f"{len(store):,} adapters of {store.directory}"
        )
        print(
            f"serving {base}{f' and {adapters}' if adapters else ''} in {args.slots} slots at "
            f"http://{host}:{socket.getsockname()[1]}",
            file=sys.stderr,
            flush=True,
        )
        server.run(sockets=[socket])


def _store(args: argparse.Namespace) -> Store | None:
    if args.store is None:
        return None
    if args.adapter is not None:
        raise ValueError("--store and --adapter were both given; give one of them, or none")
    return Store.open(args.store)


def _has(store: Store, name: str) -> bool:
    with contextlib.suppress(ValueError):
        return names.require(name) in store
    return False


def _last_part(model: str) -> str:
    return Path(model).resolve().name if Path(model).exists() else model


def _adapter_name(adapter: Path) -> str:
    """The directory's name, when an adapter is in it.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when its description is damaged, or the name is none.
    """
    from tera_jax.io import adapter_description, peft  # which import JAX

    if (adapter / peft.CONFIG).is_file():
        json_files.read(adapter / peft.CONFIG)
    elif (adapter / adapter_description.FILE).is_file():
        adapter_description.read(adapter)
    else:
        raise FileNotFoundError(
            f"{adapter} holds neither {adapter_description.FILE} nor {peft.CONFIG}; name a "
            "directory that train.export --format=adapter or PEFT wrote"
        )
    return names.require(adapter.resolve().name)


def _require_key(args: argparse.Namespace) -> None:
    key = args.api_key
    if key is not None and (not key or key != key.strip()):
        raise ValueError("--api-key is empty or has blanks at its ends; give another key")


def _engine(
    args: argparse.Namespace, store: Store | None, adapter_name: str | None
) -> tuple[Codec, Engine]:
    """The tokenizer and the engine, its shapes compiled.

    Raises:
        FileNotFoundError: for a model that is not there.
        ValueError: for a size, a mesh or an adapter that does not fit it.
    """
    # Here: what comes before is told without the seconds that JAX and transformers take.
    import jax.numpy as jnp

    from tera_jax import sharding
    from tera_jax.io import adapter_files
    from tera_jax.llama import load_config, load_pretrained, load_tokenizer
    from tera_jax.llama.checkpoint import special_tokens
    from tera_jax.ops import dispatch
    from tera_jax.serve import engine

    model_config = load_config(args.model)
    context = model_config.max_position_embeddings
    max_length = args.max_length or min(context, _MAX_LENGTH)
    if max_length > context:
        raise ValueError(
            f"--max-length is {max_length:,}, but the model's context is {context:,}; give less"
        )
    config: dict[str, Any] = {
        "slots": args.slots,
        "max_length": max_length,
        "queue": args.queue,
        "host_bytes": args.host_bytes,
    }
    EngineConfig(**config)
    mesh = sharding.make_mesh(**sharding.parse_mesh(args.mesh)) if args.mesh else None
    tokenizer = load_tokenizer(args.model)
    dtype = jnp.dtype(args.dtype or ("bfloat16" if dispatch.on_gpu() else "float32"))
    model, params = load_pretrained(args.model, dtype, mesh, quantize=args.quantize)
    # The model's config knows those of generation_config.json too.
    sizes = EngineConfig(**config, eos_ids=special_tokens.eos_ids(model.config, tokenizer))
    print(
        f"compiling the programs of {args.slots} slots of {max_length:,} tokens",
        file=sys.stderr,
        flush=True,
    )
    if store is not None:
        return Codec(tokenizer), engine.Engine.of_store(model, params, store, sizes, mesh)
    if adapter_name is not None:
        adapter, variables = adapter_files.load_adapter(args.adapter, params)
        found = engine.Engine.of_adapter(model, adapter, variables, adapter_name, sizes, mesh)
        return Codec(tokenizer), found
    return Codec(tokenizer), engine.Engine.of_base(model, params, sizes, mesh)
