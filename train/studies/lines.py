"""A file of JSON lines that grows by one line at a time, whoever may be killed."""

import errno
import json
import os
from pathlib import Path
from typing import Any

from tera_jax import json_files


def whole(file: Path) -> list[bytes]:
    """The lines that were written to their end; none where there is no file."""
    return _whole(file.read_bytes()).splitlines() if file.is_file() else []


def repair(file: Path) -> None:
    """Cut off a last line that was not written to its end."""
    if not file.is_file():
        return
    text = file.read_bytes()
    if len(kept := _whole(text)) < len(text):
        print(f"{file}: the last line was cut off, and is left out", flush=True)
        with file.open("r+b") as stream:
            stream.truncate(len(kept))


def append(file: Path, content: Any) -> None:
    """Add a line, which is on the disk afterwards.

    Args:
        file: of lines.
        content: of the line, as :func:`tera_jax.json_files.finite` takes it.

    Raises:
        OSError: when the disk has no room, or fails.
    """
    line = (json.dumps(json_files.finite(content), allow_nan=False) + "\n").encode()
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        # One call, so that lines of two processes do not mix.
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _whole(text: bytes) -> bytes:
    return text[: text.rfind(b"\n") + 1]
