"""Serve a base with very many adapters, one, or none, by OpenAI's API.

    python -m tera_jax.serve --model=path/to/model --store=store
    python -m tera_jax.serve --model=path/to/model --adapter=adapter
    python -m tera_jax.serve --model=path/to/model --port=8001 --slots=32 --api-key=SECRET

The model of a request is the name of an adapter, or the name of the base. A page at / has two
adapters side by side. SIGTERM and Ctrl-C let the answers under way end. Needs
``pip install 'tera-jax[serve]'``.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tera_jax.application import application

_EXTRA = "the server needs packages of an extra; pip install 'tera-jax[serve]'"
_KINDS = ("none", "int8", "int4", "nf4", "fp8")


def main(argv: Sequence[str] | None = None) -> None:
    """Check what was given, load the weights, serve."""
    args = _parser().parse_args(argv)
    try:
        import prometheus_client  # noqa: F401
        import pydantic  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error.name} is not there: {_EXTRA}") from None
    from tera_jax.serve.http import start

    start.run(args)


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = application("command").parser(main, "tera_jax.serve")
    add, key = parser.add_argument, os.environ.get("TERA_API_KEY") or None
    add("--model", required=True, help="the base: an HF directory, a GGUF file or a hub name")
    add("--store", type=Path, help="a store of adapters of this base")
    add("--adapter", type=Path, help="one exported adapter, or PEFT's; its name is the directory's")
    add("--served-name", help="of the base; by default the last part of --model")
    add("--host", default="127.0.0.1", help="0.0.0.0 for all; then set an API key")
    add("--port", type=int, default=8000, help="0 takes a free one")
    add("--api-key", default=key, help="that clients send; by default that of TERA_API_KEY")
    add("--slots", type=int, default=64, help="requests that are answered at once")
    add("--max-length", type=int, help="tokens of prompt and answer; the context, at most 2048")
    add("--queue", type=int, default=1024, help="requests that wait; 429 beyond")
    add("--host-bytes", type=int, default=2**31, help="of adapters kept in host memory")
    add("--dtype", choices=("float32", "bfloat16"), help="bfloat16 on a GPU, else float32")
    add("--quantize", choices=_KINDS, default="none", help="how the base is kept")
    add("--mesh", help="as data=2,tensor=4; one device without")
    add("--max-body-bytes", type=int, default=4 * 2**20, help="of a request; 413 beyond")
    add("--max-prompts", type=int, default=128, help="of a request, times n")
    add("--max-tokens", type=int, help="new tokens of an answer; what a slot holds")
    add("--max-request-tokens", type=int, help="of a request; 64 times --max-length")
    add("--drain-seconds", type=float, default=30.0, help="for answers under way at the end")
    add("--allow-adapter-changes", action="store_true", help="clients may unload adapters")
    return parser


def cli() -> None:
    """The command, on the arguments of the process."""
    application("command").run(main)


if __name__ == "__main__":
    cli()
