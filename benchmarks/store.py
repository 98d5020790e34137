r"""A store of many adapters: its size, how long it takes to open, and how fast it is read.

    python -m benchmarks.store --directory=runs/store --count=10000

The d of all adapters differ: each is a window of one block of noise, at an offset of its own. They
are put in transactions of 256. Then adapters drawn at random are read, each once cold and once
warm. For a cold read the system is told to drop the pages of the record (``posix_fadvise``).

The second table is of a server's threads: ``WAVE`` warm reads by four of them beside one that never
rests, as that of HTTP is when many requests come. A thread that wants Python's lock gets it after
the switch interval: Python's own, and shorter ones.
"""

import contextlib
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tera_jax.serve.store import Store
from train import command

_GROUP = 256
_PATH = "d"
WAVE = 64
"""Reads that are wanted at once."""
_THREADS = 4
_WAVES = 5
INTERVALS = (0.005, 0.001, 0.0002)
"""Seconds."""


def adapters(count: int, numbers: int) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """So many adapters of so many float32 numbers, by name."""
    draw = np.random.default_rng(0)
    noise = draw.standard_normal(2 * numbers + count, np.float32)
    for number, start in enumerate(draw.permutation(count)):
        yield f"user-{number:06d}", {_PATH: noise[start : start + numbers]}


def fill(store: Store, count: int, numbers: int) -> None:
    """Put what the store does not have yet."""
    group = []
    for name, arrays in adapters(count, numbers):
        if name in store:
            continue
        group.append((name, arrays))
        if len(group) == _GROUP:
            store.put_all(group)
            group = []
    store.put_all(group)


def forget(directory: Path) -> None:
    """Let the system drop the pages of all records, which are on the disk."""
    for file in (directory / "shards").iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def timed(store: Store, name: str) -> float:
    """Milliseconds of one read."""
    start = time.perf_counter()
    store.get(name)
    return 1e3 * (time.perf_counter() - start)


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Beside a thread that never rests."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            sum(range(200))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def waves(store: Store, names: Sequence[str], interval: float) -> list[float]:
    """Milliseconds of so many reads at once, each time, with a switch interval."""
    before, found = sys.getswitchinterval(), []
    sys.setswitchinterval(interval)
    try:
        with busy(), ThreadPoolExecutor(_THREADS) as threads:
            for _ in range(_WAVES):
                start = time.perf_counter()
                list(threads.map(store.read, names))
                found.append(1e3 * (time.perf_counter() - start))
    finally:
        sys.setswitchinterval(before)
    return found


def line(what: str, milliseconds: list[float]) -> str:
    """A row of the table."""
    cuts = statistics.quantiles(milliseconds, n=100)
    return f"| {what} | {statistics.median(milliseconds):.3f} | {cuts[-1]:.3f} |"


def main() -> None:
    """Make the store if need be, read from it, print."""
    parser = command.parser(main)
    parser.add_argument("--directory", type=Path, required=True, help="of the store; made once")
    parser.add_argument("--count", type=int, default=10_000, help="adapters")
    parser.add_argument("--numbers", type=int, default=264_192, help="of each")
    parser.add_argument("--reads", type=int, default=500, help="that are timed")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    args = parser.parse_args()
    if not args.directory.exists():
        Store.create(args.directory, {_PATH: (args.numbers,)}, {}, args.dtype).close()
    with Store.open(args.directory) as store:
        before, start = len(store), time.perf_counter()
        fill(store, args.count, args.numbers)
        seconds, made = time.perf_counter() - start, len(store) - before
        size = store.layout.size
    if made:
        print(f"{made:,} adapters put in {seconds:.1f} s: {made / seconds:,.0f} in a second")
    start = time.perf_counter()
    store = Store.open(args.directory)
    opened = 1e3 * (time.perf_counter() - start)
    files = [file for file in args.directory.rglob("*") if file.is_file()]
    total = sum(file.stat().st_size for file in files)
    count = len(store)
    print(
        f"{count:,} adapters: {total / 1e9:.3f} GB in {len(files)} files, opened in {opened:.1f} ms"
    )
    print(f"{total / count:,.0f} bytes an adapter, of which its numbers are {size:,}")
    names = [f"user-{i:06d}" for i in np.random.default_rng(1).integers(count, size=args.reads)]
    cold, warm = [], []
    for name in names:
        forget(args.directory)
        cold.append(timed(store, name))
        warm.append(timed(store, name))
    print("| read | median, ms | 99 % within, ms |\n| --- | ---: | ---: |")
    print(line("cold", cold), line("warm", warm), sep="\n")
    print(f"| switch interval, ms | {WAVE} reads at once, median, ms |\n| ---: | ---: |")
    for interval in INTERVALS:
        took = statistics.median(waves(store, (names * WAVE)[:WAVE], interval))
        print(f"| {1e3 * interval:g} | {took:.1f} |")


if __name__ == "__main__":
    command.run(main)
