"""Locks of the operating system on open files, which end with the process that holds them."""

import errno
import sys

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
