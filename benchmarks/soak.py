"""A server under traffic of every kind for a while: is its memory flat, and are answers right?

    python -m benchmarks.soak --minutes=30

Starts ``python -m tera_jax.serve`` with a tiny model and a store of adapters on this machine, and
sends it streams, whole answers, clients that leave, wrong requests and floods. A greedy answer of
each adapter is compared with the first one it gave. Ends with status 1 when the memory grew, an
answer was another one, or a response had status 500.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

ADAPTERS = 100
CLIENTS = 16
GROWTH = 1.05
"""The most memory at the end beside that after a quarter of the time."""
_WRONG: tuple[Any, ...] = (
    b"{",
    b"[" * 10_000,
    {"model": "../x", "prompt": "a"},
    {"model": "n1", "prompt": "a", "tools": [1]},
    {"model": "n1", "prompt": [10**9]},
    {"model": "n1", "prompt": "a" * 5_000_000},
)


class Traffic:
    """Clients of one server.

    Args:
        address: of the server.
        seed: of what they do.
    """

    def __init__(self, address: str, seed: int = 0) -> None:
        self._address, self._draw = address, random.Random(seed)
        self.statuses: collections.Counter[int] = collections.Counter()
        self.first: dict[str, str] = {}
        self.changed = 0

    async def run(self, until: float) -> None:
        """Until a time of the monotonic clock."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._address, timeout=120, limits=limits) as client:
            await asyncio.gather(*(self._one(client, until) for _ in range(CLIENTS)))

    async def _one(self, client: httpx.AsyncClient, until: float) -> None:
        kinds = (self._greedy, self._greedy, self._leave, self._wrong, self._chat)
        while time.monotonic() < until:
            await self._draw.choice(kinds)(client)

    def _body(self, **fields: Any) -> dict[str, Any]:
        name = f"n{self._draw.randrange(ADAPTERS)}"
        return {"model": name, "prompt": "the cat", "max_tokens": 12, "temperature": 0, **fields}

    async def _greedy(self, client: httpx.AsyncClient) -> None:
        body = self._body()
        found = await client.post("/v1/completions", json=body)
        self.statuses[found.status_code] += 1
        if found.status_code == 200:
            text = found.json()["choices"][0]["text"]
            self.changed += self.first.setdefault(body["model"], text) != text

    async def _chat(self, client: httpx.AsyncClient) -> None:
        messages = [{"role": "user", "content": "red?"}]
        body = {"model": "n1", "messages": messages, "max_tokens": 8, "stream": True}
        async with client.stream("POST", "/v1/chat/completions", json=body) as found:
            self.statuses[found.status_code] += 1
            async for _ in found.aiter_lines():
                pass

    async def _leave(self, client: httpx.AsyncClient) -> None:
        body = self._body(stream=True, max_tokens=60, ignore_eos=True)
        async with client.stream("POST", "/v1/completions", json=body) as found:
            self.statuses[found.status_code] += 1
            async for _ in found.aiter_lines():
                break

    async def _wrong(self, client: httpx.AsyncClient) -> None:
        body = self._draw.choice(_WRONG)
        data = body if isinstance(body, bytes) else json.dumps(body)
        kind = {"Content-Type": "application/json"}
        with contextlib.suppress(httpx.WriteError):
            found = await client.post("/v1/completions", content=data, headers=kind)
            self.statuses[found.status_code] += 1


@contextlib.contextmanager
def served(place: Path) -> Iterator[tuple[int, str]]:
    """A server of a tiny model and a store; gives its process's number and its address."""
    from benchmarks.soak_world import make

    make(place, ADAPTERS)
    command = [sys.executable, "-m", "tera_jax.serve", f"--model={place / 'tiny'}", "--port=0"]
    flags = [f"--store={place / 'store'}", "--slots=8", "--max-length=96", "--queue=64"]
    with (place / "log").open("w+") as log:
        process = subprocess.Popen([*command, *flags], stderr=log)
        try:
            yield process.pid, _address(process, place / "log")
        finally:
            process.terminate()
            process.wait(60)


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    while "http://" not in (said := log.read_text()):
        if process.poll() is not None:
            raise ValueError(f"the server has ended: {said}")
        time.sleep(0.2)
    return said.rpartition(" at ")[2].strip()


def memory(pid: int) -> int:
    """Bytes that a process has in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def _measured(traffic: Traffic, pid: int, seconds: float) -> list[int]:
    """The memory at twenty times of equal distance, while clients are at work."""
    start, found = time.monotonic(), []
    work = asyncio.ensure_future(traffic.run(start + seconds))
    for step in range(1, 21):
        await asyncio.sleep(max(0, start + seconds * step / 20 - time.monotonic()))
        found.append(memory(pid))
    await work
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Serve, ask, and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as place, served(Path(place)) as (pid, address):
        traffic = Traffic(address)
        found = asyncio.run(_measured(traffic, pid, 60 * args.minutes))
    quarter, end = max(found[3:6]), max(found[-3:])
    total = sum(traffic.statuses.values())
    print(
        f"{total:,} responses in {args.minutes:g} minutes: {dict(sorted(traffic.statuses.items()))}"
    )
    print(f"memory after a quarter {quarter / 2**20:.1f} MiB, at the end {end / 2**20:.1f} MiB")
    print(f"{len(traffic.first)} adapters answered, {traffic.changed} answers changed")
    failed = [status for status in traffic.statuses if status >= 500]
    if failed or traffic.changed or end > GROWTH * quarter or not traffic.statuses[200]:
        sys.exit(1)


if __name__ == "__main__":
    main()
