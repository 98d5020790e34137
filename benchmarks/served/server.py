"""The server of :mod:`benchmarks.serving`: the real one, of a base with random weights.

    python -m benchmarks.served.server --model=tiny --store=runs/tiny --prompt=64 --answer=64

It writes two lines of JSON: which base its store is for, and then its address. Prompts are token
ids; the tokens of an answer are words of a made-up tokenizer.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.mixed.cases import LLAMA, TINY, Base
from benchmarks.served import adapters
from tera_jax.serve.engine import Engine
from tera_jax.serve.engine_config import EngineConfig
from tera_jax.serve.http.codec import Codec
from tera_jax.serve.http.server import Server, keep_what_is_loaded, listen
from tera_jax.serve.http.service import Service
from tera_jax.serve.store import Store

BASE_NAME = "base"
_SHAPES = {"llama-2-7b": LLAMA, "tiny": TINY}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those of the engine, which the benchmark hands on."""
    add = parser.add_argument
    add("--store", type=Path, required=True, help="directory; made once")
    add("--model", choices=[*_SHAPES], default="llama-2-7b")
    add("--case", choices=adapters.KINDS, default="tera structured")
    add("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the store")
    add("--slots", type=int, default=64)
    add("--prompt", type=int, default=128, help="tokens")
    add("--answer", type=int, default=128, help="tokens")
    add("--host-gb", type=float, default=2.0, help="of adapters in host memory")
    add("--device-gb", type=float, default=0.25, help="in device memory")


def flags(args: argparse.Namespace) -> list[str]:
    """The same again, for a process."""
    names = (
        *("store", "model", "case", "dtype", "slots", "prompt", "answer"),
        *("host_gb", "device_gb"),
    )
    return [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names]


def vocabulary(args: argparse.Namespace) -> int:
    """Tokens of the model."""
    return _SHAPES[args.model].vocab_size


def made_base(args: argparse.Namespace) -> Base:
    """The base, whose weights are drawn on the device."""
    device, most = jax.devices()[0], args.prompt + args.answer
    _tell(f"jax {jax.__version__} on {device.device_kind}")
    config = dataclasses.replace(_SHAPES[args.model], max_position_embeddings=max(most, 4096))
    base = Base(config, jnp.float32 if args.model == "tiny" else jnp.bfloat16)
    _tell(f"{args.model}: {adapters.params_bytes(base.params) / 1e9:.2f} GB of weights")
    return base


def made_engine(args: argparse.Namespace, base: Base, fingerprint: str) -> Engine:
    """An engine of the store, whose shapes are compiled."""
    sizes = EngineConfig(
        slots=args.slots,
        max_length=args.prompt + args.answer,
        buckets=(args.prompt,),
        echo=False,
        host_bytes=int(args.host_gb * 1e9),
        device_bytes=int(args.device_gb * 1e9),
    )
    with Store.open(args.store) as store:
        engine = Engine.of_store(base.model, base.params, store, sizes, None, fingerprint)
    _tell("every shape is compiled")
    return engine


def tokenizer(size: int) -> Any:
    """Words ``w0``, ``w1``, ..., as many as the model has tokens."""
    import tokenizers
    import transformers

    vocabulary = {f"▁w{number}": number for number in range(size)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="▁w0"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    words.decoder = tokenizers.decoders.Metaspace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="▁w0")


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_flags(parser)
    args = parser.parse_args()
    base = made_base(args)
    print(json.dumps({"base": adapters.prepared(args.store, base, args.case, args.dtype)}))
    sys.stdout.flush()
    engine = made_engine(args, base, adapters.fingerprint_of(args.store))
    try:
        service = Service(engine, Codec(tokenizer(engine.vocabulary)), BASE_NAME)
        server, socket = Server(service), listen("127.0.0.1", 0)
        keep_what_is_loaded()
        socket.listen()
        print(json.dumps({"url": f"http://127.0.0.1:{socket.getsockname()[1]}"}), flush=True)
        server.run(sockets=[socket])
    finally:
        engine.close(drain=False)


def _tell(text: str) -> None:
    """Beside the lines of JSON."""
    print(f"server: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
