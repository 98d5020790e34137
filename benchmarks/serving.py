r"""Traffic over very many adapters beside traffic to the base: tokens a second, first tokens.

    python -m benchmarks.serving --store=runs/many --adapters=100000      # one GPU
    python -m benchmarks.serving --store=runs/tiny --model=tiny           # a CPU, small sizes
    python -m benchmarks.serving --url=http://localhost:8000 --store=runs/many

Llama-2-7B's shapes with random bfloat16 weights, q and v adapted. The d of each adapter is a window
of one block of noise, at an offset of its own, and is kept in a store. Every request names an
adapter that is drawn uniformly. So many requests as ``--concurrency`` are under way at any time.

Rounds of base and adapters alternate in one engine. ``--url`` sends them to a server, which has the
store already. Before that single requests are timed on the idle engine. They go to the base, to an
adapter that was never read and whose pages the system was told to drop (cold), and to it again
(warm).
"""

import argparse
import dataclasses
import statistics
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.mixed.cases import CASES, LLAMA, TINY, Base, log
from benchmarks.served import adapters, clients
from benchmarks.served.clients import Ask, Job, Timing
from benchmarks.store import forget
from tera_jax.serve.engine import Engine
from tera_jax.serve.engine_config import EngineConfig
from tera_jax.serve.store import Store
from train import command


def started(args: argparse.Namespace, most: int) -> tuple[Engine, Store]:
    """An engine with the store's adapters, which are made if need be."""
    config = dataclasses.replace(
        TINY if args.model == "tiny" else LLAMA, max_position_embeddings=max(most, 4096)
    )
    base = Base(config, jnp.float32 if args.model == "tiny" else jnp.bfloat16)
    log(f"{args.model}: {adapters.params_bytes(base.params) / 1e9:.2f} GB of weights")
    given = (args.store, base, args.case, args.adapters, args.dtype)
    store, fingerprint = adapters.filled(*given)
    sizes = EngineConfig(
        slots=args.slots or args.concurrency,
        max_length=most,
        buckets=(args.prompt,),
        echo=False,
        host_bytes=int(args.host_gb * 1e9),
        device_bytes=int(args.device_gb * 1e9),
    )
    engine = Engine.of_store(base.model, base.params, store, sizes, base_fingerprint=fingerprint)
    log("every shape is compiled")
    return engine, store


def drawn(count: int, vocabulary: int, args: argparse.Namespace, seed: int) -> list[Job]:
    """Requests to adapters."""
    draw = np.random.default_rng(seed)
    return [
        Job(
            tuple(draw.integers(1, vocabulary, args.prompt).tolist()),
            adapters.name(int(draw.integers(args.adapters))),
            args.answer,
        )
        for _ in range(count)
    ]


def rounds(ask: Ask, vocabulary: int, args: argparse.Namespace) -> Iterator[str]:
    """The table of both kinds of traffic."""
    found: dict[str, list[Timing]] = {"base": [], "adapters": []}
    rates: dict[str, list[float]] = {"base": [], "adapters": []}
    for number in range(args.rounds + 1):
        count = -(-args.requests // args.rounds) if number else args.concurrency
        jobs = drawn(count, vocabulary, args, number)
        for kind in found:
            given = [job._replace(adapter=None) for job in jobs] if kind == "base" else jobs
            timings, seconds = clients.at_once(ask, given, args.concurrency)
            rate = sum(timing.tokens for timing in timings) / seconds
            log(f"{'round ' + str(number) if number else 'before the rounds'}, {kind}: {rate:,.1f}")
            if number:
                found[kind] += timings
                rates[kind].append(rate)
    yield "| traffic | requests | tokens/s | range | first token, ms | 99 % within | whole, ms |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for kind, timings in found.items():
        first = [1e3 * timing.first for timing in timings]
        cells = (
            kind,
            f"{len(timings):,}",
            f"{statistics.median(rates[kind]):,.1f}",
            f"{min(rates[kind]):,.1f} to {max(rates[kind]):,.1f}",
            f"{statistics.median(first):.2f}",
            f"{np.percentile(first, 99):.2f}",
            f"{1e3 * statistics.median(timing.whole for timing in timings):.1f}",
        )
        yield "| " + " | ".join(cells) + " |"
    each = [b / a for a, b in zip(rates["base"], rates["adapters"], strict=True)]
    late = [np.percentile([t.first for t in found[kind]], 99) for kind in ("base", "adapters")]
    yield (
        f"adapters to base: {statistics.median(each):.3f} of the tokens "
        f"({min(each):.3f} to {max(each):.3f}), {late[1] / late[0]:.3f} times the 99 % of the first"
    )


def reads(ask: Ask, vocabulary: int, args: argparse.Namespace) -> Iterator[str]:
    """What a cold adapter and a warm one add to the first token."""
    found: dict[str, list[float]] = {"base": [], "cold": [], "warm": []}
    jobs = drawn(args.reads, vocabulary, args, -1 % 2**32)
    fresh = np.random.default_rng(2).permutation(args.adapters)[: args.reads]
    for job, number in zip(jobs, fresh, strict=True):
        job = job._replace(answer=1, adapter=None)
        found["base"].append(ask(job).first)
        forget(args.store)
        for kind in ("cold", "warm"):
            found[kind].append(ask(job._replace(adapter=adapters.name(int(number)))).first)
    yield "| one request | first token, ms | added to the base, ms | 90 % within |"
    yield "| --- | ---: | ---: | ---: |"
    for kind, seconds in found.items():
        added = [1e3 * (a - b) for a, b in zip(seconds, found["base"], strict=True)]
        cells = (
            kind,
            f"{1e3 * statistics.median(seconds):.3f}",
            f"{statistics.median(added):.3f}",
            f"{np.percentile(added, 90):.3f}",
        )
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the tables."""
    parser = command.parser(main)
    parser.add_argument("--store", type=Path, required=True, help="directory; made once")
    parser.add_argument("--model", choices=("llama-2-7b", "tiny"), default="llama-2-7b")
    cases = [case for case in CASES if case != "base"]
    parser.add_argument("--case", choices=cases, default="tera structured")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=5_000, help="of each kind of traffic")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--slots", type=int, help="as many as the concurrency, by default")
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--answer", type=int, default=128, help="tokens")
    parser.add_argument("--reads", type=int, default=200, help="of cold and warm adapters")
    parser.add_argument("--host-gb", type=float, default=2.0, help="of adapters in host memory")
    parser.add_argument("--device-gb", type=float, default=0.25, help="in device memory")
    parser.add_argument("--url", help="of a server; else an engine in this process")
    parser.add_argument("--base-name", default="base", help="the server's name of the base")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="of the server's model")
    args = parser.parse_args()
    if args.url:
        ask, vocabulary = clients.of_server(args.url, args.base_name), args.vocabulary
        print(*reads(ask, vocabulary, args), sep="\n", flush=True)
        print(*rounds(ask, vocabulary, args), sep="\n", flush=True)
        return
    device = jax.devices()[0]
    log(f"jax {jax.__version__} on {device.device_kind}")
    engine, store = started(args, args.prompt + args.answer)
    try:
        ask = clients.of_engine(engine)
        print(*reads(ask, engine.vocabulary, args), sep="\n", flush=True)
        print(*rounds(ask, engine.vocabulary, args), sep="\n", flush=True)
        stats = engine.stats()
        log(f"{stats.store_misses:,} adapters read, {stats.store_hits:,} in memory")
        log(f"{stats.steps:,} steps; {stats.host_bytes / 1e9:.3f} GB of adapters in host memory")
    finally:
        engine.close(drain=False)
        store.close()


if __name__ == "__main__":
    command.run(main)
