"""Damage a file, read it, and see that it loads or is refused by one clear error."""

import contextlib
import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.fuzz.readers import Reader
from train import command

HARD_STOP = 20.0
"""Seconds after which a reader counts as hanging."""
MEMORY = 2**30
"""Bytes by which no file may let the process grow."""


class HangingError(BaseException):
    """A reader took longer than :data:`HARD_STOP`."""


class Outcome(NamedTuple):
    """Of all damaged files of one reader."""

    read: int
    refused: int
    slowest: float
    faults: list[str]


def fuzz(reader: Reader, place: Path, count: int, seed: int = 0, seconds: float = 1e9) -> Outcome:
    """Damage a copy of a reader's file again and again.

    Args:
        reader: which, and what it reads.
        place: a directory to copy that into.
        count: the most damaged files.
        seed: of the damage.
        seconds: after which no other file is damaged.
    """
    shutil.copytree(reader.place, place)
    content = (place / reader.file).read_bytes()
    read, refused, slowest, faults = 0, 0, 0.0, []
    end = time.monotonic() + seconds
    for number in range(count):
        if time.monotonic() > end:
            break
        name = f"{reader.name} {seed} {number}"
        (place / reader.file).write_bytes(reader.damage(content, random.Random(name)))
        start, before = time.monotonic(), _peak()
        try:
            with _hard_stop():
                reader.read(place)
            read += 1
        except (Exception, HangingError) as error:
            refused += 1
            if not command.is_user_error(error):
                faults.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        slowest = max(slowest, time.monotonic() - start)
        if _peak() - before > MEMORY:
            faults.append(f"{name}: took {(_peak() - before) / 2**30:.1f} GiB")
    return Outcome(read, refused, slowest, faults)


def line(reader: Reader, outcome: Outcome) -> str:
    """A row of the table."""
    return (
        f"{reader.name:<20}{outcome.read:>6} read {outcome.refused:>6} refused "
        f"{len(outcome.faults):>4} faults, slowest {outcome.slowest:.2f} s"
    )


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def _hard_stop() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise HangingError(f"no answer in {HARD_STOP:.0f} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, HARD_STOP)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
