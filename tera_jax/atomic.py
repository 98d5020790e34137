"""The writer of every file that lasts: under a temporary name, flushed to the disk, then renamed.

A file is as it was before or whole, whenever the process or the machine stops.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EISDIR)
"""What file systems answer that cannot flush a directory."""


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """The temporary name under which to write ``file``, which takes its place at the end.

    After an error the temporary file is gone and ``file`` is as it was. What a killed process left
    under the temporary name is overwritten.

    Raises:
        OSError: when there is no room, or the directory cannot be written to.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        yield part
        sync(part)
        part.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync(file.parent)


def is_part(path: Path) -> bool:
    """Whether a path is a temporary name of :func:`replacing`."""
    return path.name.startswith(".") and path.suffix == ".part"


def write_text(file: Path, text: str) -> None:
    """Write a text in UTF-8.

    Raises:
        OSError: as :func:`replacing`.
    """
    with replacing(file) as part:
        part.write_text(text, encoding="utf-8")


def write_json(file: Path, content: Any) -> None:
    """Write what JSON can hold, indented.

    Raises:
        OSError: as :func:`replacing`.
        ValueError: for NaN and infinity, which JSON has not.
    """
    write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")


def sync(path: Path) -> None:
    """Flush a file or a directory to the disk.

    Raises:
        OSError: when the disk has no room, or fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_SYNC):
            raise
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Flush a directory and all below it.

    Raises:
        OSError: as :func:`sync`.
    """
    for path in directory.rglob("*"):
        sync(path)
    sync(directory)


def set_aside(path: Path, place: Path) -> Path:
    """Move a file or a directory below ``place``, under a name that is free there.

    Raises:
        OSError: when it cannot be moved.
    """
    place.mkdir(parents=True, exist_ok=True)
    target = place / path.name
    while target.exists():
        target = target.with_name(f"{target.name}-again")
    path.rename(target)
    return target
