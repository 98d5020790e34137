"""Kills writers of a store at any moment, and looks at what is there. Imports no JAX.

    python -m tests.tera_jax.serve.store.kills DIRECTORY COUNT

An adapter is one number, which grows from put to put. A writer says what it is about to put, and
says it again when the put has returned.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from tera_jax.serve.store import Store

NAMES = [f"n{number}" for number in range(7)]
SHAPES = {"a": (300, 40), "b": (5,)}


def arrays(value: float) -> dict[str, np.ndarray]:
    """The adapter of a number."""
    return {name: np.full(shape, value, np.float32) for name, shape in SHAPES.items()}


def number_of(found: dict[str, np.ndarray]) -> int:
    """The number of such an adapter."""
    (number,) = {float(value) for array in found.values() for value in np.unique(array)}
    return int(number)


def write(directory: Path, number: int, told: int) -> None:
    """Put and replace, one name or three at once, without end."""
    draw = random.Random(number)
    with Store.open(directory) as store:
        while True:
            group = draw.sample(NAMES, draw.choice([1, 3]))
            line = f"{number} {' '.join(group)}\n".encode()
            os.write(told, line)
            store.put_all((name, arrays(number)) for name in group)
            os.write(told, line)
            number += 1


def kill_one(directory: Path, number: int, seconds: float) -> list[str]:
    """Let a process write from a number on, kill it, and return what it said."""
    reader, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reader)
            write(directory, number, told)
        finally:
            os._exit(1)
    os.close(told)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        return file.read().splitlines()


def look(directory: Path, known: dict[str, int], pending: list[str], number: int) -> int:
    """Compare all names with what was said: the pending ones are all new, or all as they were."""
    with Store.open(directory) as store:
        found = {name: number_of(store.get(name).arrays) for name in store}
    new = [name for name in pending if found.get(name) == number]
    assert new in ([], pending), f"of {pending} only {new} are there"
    known |= dict.fromkeys(new, number)
    assert found == known, f"{found}, but {known} was said"
    return len(new)


def main(directory: Path, count: int) -> None:
    """Kill so many writers, and print what they did."""
    draw = random.Random(0)
    Store.create(directory, SHAPES, {}, "float32", shard_rows=4).close()
    known: dict[str, int] = {}
    number, unsaid = 1, 0
    for _ in range(count):
        lines = kill_one(directory, number, draw.uniform(0.005, 0.06))
        pending: list[str] = []
        for place, line in enumerate(lines):
            first, *names = line.split()
            number = int(first) + 1
            if place % 2:
                known |= dict.fromkeys(names, int(first))
            pending = [] if place % 2 else names
        unsaid += bool(look(directory, known, pending, number - 1))
    rows = sum(file.stat().st_size for file in (directory / "shards").iterdir())
    size = 4 * sum(map(np.prod, SHAPES.values()))
    print(f"{count} kills, {number - 1} puts, {unsaid} were there unsaid, {rows / size:.0f} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
