"""One run a directory: process 0 holds a lock of the operating system on ``<workdir>/lock``.

The lock ends with the process, however that ends. The file stays and says who holds it. Where the
file system has no locks, the holder writes into the file every 10 s, and a second run waits 60 s
for such a sign of life before it takes over.
"""

import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tera_jax import locks

FILE = "lock"
BEAT = 10.0
"""Seconds between signs of life, where there are no locks."""
SILENCE = 60.0
"""Seconds without one after which a holder counts as gone."""

_open: set[int] = set()


class Holder(NamedTuple):
    """Who holds a directory. ``beats`` counts the signs of life."""

    host: str
    process: int
    beats: int = 0


@contextlib.contextmanager
def held(workdir: Path, flag: str = "--workdir") -> Iterator[None]:
    """Hold the directory, which is made if need be, for this run alone.

    Args:
        workdir: the directory.
        flag: that names it, for errors.

    Raises:
        FileExistsError: when another run holds it; the error names host and process.
        ValueError: when the directory cannot be written to.
    """
    descriptor = _opened(workdir, flag)
    _open.add(descriptor)
    own = Holder(socket.gethostname(), os.getpid())
    try:
        locked = locks.try_lock(descriptor)
        if locked is False:
            raise _in_use(workdir, _read(descriptor), flag)
        with contextlib.ExitStack() as stack:
            if locked is None:
                _take_over(workdir, descriptor, own, flag)
                stack.enter_context(_beating(descriptor, own))
            _write(descriptor, own)
            yield
        os.ftruncate(descriptor, 0)
    finally:
        _open.discard(descriptor)
        os.close(descriptor)


def _opened(workdir: Path, flag: str) -> int:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK | os.X_OK):
            raise PermissionError("no permission to write")
        return os.open(workdir / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError as error:
        reason = error.strerror or str(error)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise
        reason = error.strerror or str(error)
    raise ValueError(f"{workdir} cannot be written to ({reason}); choose another {flag}")


def _in_use(workdir: Path, holder: Holder | None, flag: str) -> FileExistsError:
    who = "another process" if holder is None else f"process {holder.process} on {holder.host}"
    return FileExistsError(
        f"{workdir} is in use by {who}; wait until that run ends, or choose another {flag}"
    )


def _read(descriptor: int) -> Holder | None:
    """Who holds it; None where the file does not say."""
    try:
        host, process, beats = json.loads(os.pread(descriptor, 4096, 0))
        return Holder(str(host), int(process), int(beats))
    except (ValueError, TypeError):
        return None


def _write(descriptor: int, holder: Holder) -> None:
    content = (json.dumps(holder) + "\n").encode()
    os.pwrite(descriptor, content, 0)
    os.ftruncate(descriptor, len(content))


def _take_over(workdir: Path, descriptor: int, own: Holder, flag: str) -> None:
    """Wait for a sign of life of whoever is in the file, and put this run in its place."""
    before = _read(descriptor)
    end = time.monotonic() + SILENCE
    while before is not None and not _is_gone(before) and time.monotonic() < end:
        time.sleep(BEAT / 10)
        if _read(descriptor) != before:
            raise _in_use(workdir, _read(descriptor), flag)
    _write(descriptor, own)
    time.sleep(BEAT / 10)
    if _read(descriptor) != own:  # of two that took over at once the last stays
        raise _in_use(workdir, _read(descriptor), flag)


def _is_gone(holder: Holder) -> bool:
    """Whether it was a process of this host that is no more."""
    if holder.host != socket.gethostname():
        return False
    try:
        os.kill(holder.process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return holder.process == os.getpid()


@contextlib.contextmanager
def _beating(descriptor: int, own: Holder) -> Iterator[None]:
    """A thread writes a sign of life every :data:`BEAT` seconds."""
    ended = threading.Event()

    def beat() -> None:
        beats = 0
        while not ended.wait(BEAT):
            beats += 1
            with contextlib.suppress(OSError):  # a full disk is found by what must be written
                _write(descriptor, own._replace(beats=beats))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _close_all() -> None:
    """In a forked child, which would hold the lock after its parent has ended."""
    for descriptor in _open:
        os.close(descriptor)
    _open.clear()


os.register_at_fork(after_in_child=_close_all)
