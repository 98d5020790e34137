r"""Traffic over very many adapters beside traffic to the base: tokens a second, first tokens.

    python -m benchmarks.serving --store=runs/many --adapters=100000      # one GPU
    python -m benchmarks.serving --store=runs/tiny --model=tiny           # a CPU, small sizes
    python -m benchmarks.serving --url=http://localhost:8000 --store=runs/many

Llama-2-7B's shapes with random bfloat16 weights, drawn on the device; q and v adapted. The d of
each adapter is a window of one block of noise, at an offset of its own, and is kept in a store,
which is filled while the server compiles. Every request names an adapter that is drawn uniformly.
So many requests as ``--concurrency`` are under way at any time.

The server is a process, and the clients are others: ``--clients`` of them. Rounds of base and
adapters alternate. Before that single requests are timed. They go to the base, to an adapter that
was never read and whose pages the system was told to drop (cold), and to it again (warm).
``--url`` sends the same to a server that runs already; ``--in-process`` has an engine without HTTP.
"""

import argparse
import functools
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.mixed.cases import log
from benchmarks.served import adapters, clients, processes, server, traffic
from tera_jax import atomic
from train import command

_COUNTS = ("steps", "store_hits", "store_misses", "host_bytes")


def measured(send: traffic.Send, args: argparse.Namespace, vocabulary: int) -> dict[str, Any]:
    """Both tables, printed as they come."""
    plan = traffic.Plan(
        *(args.adapters, vocabulary, args.requests, args.rounds, args.concurrency),
        *(args.prompt, args.answer, args.reads),
    )
    reads = traffic.reads(send, plan, args.store)
    print(*traffic.reads_table(reads), sep="\n", flush=True)
    rounds = traffic.rounds(send, plan, log)
    print(*traffic.rounds_table(rounds), sep="\n", flush=True)
    return {"reads": reads, "traffic": rounds}


def by_http(args: argparse.Namespace) -> dict[str, Any]:
    """A server and clients, each in processes of their own."""
    running = processes.Server(server.flags(args))
    with processes.closing(running):
        running.told("base")
        store = adapters.fill(args.store, args.adapters, log)
        url = running.told("url")
        log(f"the server is at {url}")
        many = processes.Clients(url, server.BASE_NAME, args.clients)

        def send(jobs: Any, concurrency: int) -> Any:
            before = running.cpu_seconds
            timings, seconds = many.send(jobs, concurrency)
            if concurrency > 1:
                share = (running.cpu_seconds - before) / seconds
                busy.append((share, many.busy))
                log(f"cores: the server {share:.2f}, the busiest client {many.busy:.2f}")
            return timings, seconds

        busy: list[tuple[float, float]] = []
        with processes.closing(many):
            found = measured(send, args, server.vocabulary(args))
        counts = counted(url)
        log(f"{counts['store_misses']:,.0f} adapters read, {counts['store_hits']:,.0f} in memory")
        cores = {"server": max(s for s, _ in busy), "busiest_client": max(c for _, c in busy)}
    return {"store": store, **found, "engine": counts, "cores": cores}


def counted(url: str) -> dict[str, float]:
    """What the server's metrics say of its engine."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    found = {name: values.get(f"tera_engine_{name}") for name in _COUNTS}
    found |= {name: values.get(f"tera_engine_{name}_total", found[name]) for name in _COUNTS}
    return {name: float(value) for name, value in found.items() if value is not None}


def by_url(args: argparse.Namespace) -> dict[str, Any]:
    """To a server that runs, of the same store."""
    many = processes.Clients(args.url, args.base_name, args.clients)
    with processes.closing(many):
        return measured(many.send, args, args.vocabulary)


def in_process(args: argparse.Namespace) -> dict[str, Any]:
    """To an engine without HTTP."""
    base = server.made_base(args)
    fingerprint = adapters.prepared(args.store, base, args.case, args.dtype)
    store = adapters.fill(args.store, args.adapters, log)
    engine = server.made_engine(args, base, fingerprint)
    try:
        ask = clients.of_engine(engine)
        found = measured(functools.partial(clients.at_once, ask), args, engine.vocabulary)
        stats = engine.stats()._asdict()
    finally:
        engine.close(drain=False)
    return {"store": store, **found, "engine": {name: stats[name] for name in _COUNTS}}


def main() -> None:
    """Print the tables, and write one file with all numbers."""
    parser = command.parser(main)
    server.add_flags(parser)
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=5_120, help="of each kind of traffic")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--reads", type=int, default=200, help="of cold and warm adapters")
    parser.add_argument("--clients", type=int, default=4, help="processes that send")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--in-process", action="store_true", help="an engine without HTTP")
    parser.add_argument("--url", help="of a server that runs already")
    parser.add_argument("--base-name", default="base", help="the name of its base")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="of its model")
    args = parser.parse_args()
    run = by_url if args.url else in_process if args.in_process else by_http
    found = run(args)
    if args.json is not None:
        given = {key: str(value) for key, value in vars(args).items()}
        atomic.write_json(args.json, {"flags": given, **found})
        log(f"all numbers are in {args.json}")


if __name__ == "__main__":
    command.run(main)
