"""Locks of the operating system on open files, which end with the process that holds them."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_WITHOUT = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)
"""What file systems answer that have no locks."""


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or directory for this process alone, and do not wait.

    Returns:
        Whether it is locked now; None where there are no locks.

    Raises:
        OSError: when the disk fails.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno in _WITHOUT:
            return None
        raise
    return True


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold a directory, which is made if need be, for this process alone.

    Nothing is written into it. Where the file system has no locks, nobody is kept out.

    Raises:
        FileExistsError: when another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":  # which opens no directory
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        if try_lock(descriptor) is False:
            raise FileExistsError(
                f"another process writes to {directory}; wait until it ends, or choose another "
                "directory"
            )
        yield
    finally:
        os.close(descriptor)
