"""A router in one file: each connection goes to the next server that answers.

    python examples/serving/router.py --port=8000 127.0.0.1:8001 127.0.0.1:8002

Bytes are handed on as they come, so that streams stay streams. A server that ends answers 503 at
its /health, and is left out until it answers 200 again.
"""

import argparse
import asyncio
import contextlib
import itertools
from collections.abc import Sequence

_CHECK_SECONDS = 0.5
_SIZE = 2**16


class Router:
    """Of some servers, each ``host:port``."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = [
            (host, int(port)) for host, _, port in (s.rpartition(":") for s in servers)
        ]
        self._next = itertools.count()
        self._is_well = dict.fromkeys(self._servers, True)

    async def watch(self) -> None:
        """Ask every server again and again whether it is well."""
        while True:
            for server in self._servers:
                self._is_well[server] = await _answers(server)
            await asyncio.sleep(_CHECK_SECONDS)

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand a client's connection on until one side ends it."""
        first = next(self._next)
        count = len(self._servers)
        order = [self._servers[(first + step) % count] for step in range(count)]
        for server in sorted(order, key=lambda each: not self._is_well[each]):
            with contextlib.suppress(OSError):
                back, out = await asyncio.open_connection(*server)
                await _both(_copy(reader, out), _copy(back, writer))
                break
        writer.close()


async def _both(*ways: object) -> None:
    """Until one of them ends."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_SIZE):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def _answers(server: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_CHECK_SECONDS):
            reader, writer = await asyncio.open_connection(*server)
            writer.write(b"GET /health HTTP/1.0\r\nHost: router\r\n\r\n")
            line = await reader.readline()
            writer.close()
            return b" 200 " in line
    return False


async def serve(host: str, port: int, servers: Sequence[str]) -> None:
    """Listen for ever."""
    router = Router(servers)
    watching = asyncio.ensure_future(router.watch())
    async with await asyncio.start_server(router.connect, host, port) as listener:
        await listener.serve_forever()
    watching.cancel()


def main() -> None:
    """Read the addresses, and listen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("servers", nargs="+", metavar="HOST:PORT")
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(args.host, args.port, args.servers))


if __name__ == "__main__":
    main()
