"""What is asked: texts of the command line, or a file of prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.containers import files
from .style import Request, Style

_SUFFIXES = (".txt", ".json", ".jsonl", ".json.gz", ".jsonl.gz")


def read(file: Path) -> list[tuple[str, Request]]:
    """The requests in a file, each with the name that errors give it.

    Args:
        file: ``.txt`` with a prompt a line, blank lines left out; or ``.jsonl`` (``.json`` with a
            list, either gzipped) of objects with ``prompt``, ``messages`` or the fields of a run's
            records.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is of another kind, is not UTF-8, has no prompt, or an object is none.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; name a file of prompts")
    if not file.name.endswith(_SUFFIXES):
        raise ValueError(f"{file} ends in none of {', '.join(_SUFFIXES)}; rename or convert it")
    found = _lines(file) if file.suffix == ".txt" else _objects(file)
    if not found:
        raise ValueError(f"{file} has no prompt; write one a line")
    return found


def encoded(requests: Sequence[tuple[str, Request]], style: Style) -> list[list[int]]:
    """The token ids of requests.

    Raises:
        ValueError: naming the request that is wrong.
    """
    result = []
    for name, request in requests:
        try:
            result.append(style.ids(request))
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    return result


def require_room(
    requests: Sequence[tuple[str, Request]], ids: Sequence[Sequence[int]], context: int
) -> None:
    """Raise ``ValueError``, naming the request, where a prompt fills the context of the base."""
    for (name, _), prompt in zip(requests, ids, strict=True):
        if len(prompt) >= context:
            raise ValueError(
                f"{name} has {len(prompt):,} tokens, which leaves no room in the model's context "
                f"of {context:,}; shorten it"
            )


def _lines(file: Path) -> list[tuple[str, Request]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{file} is not UTF-8: line {line} has the byte 0x{byte:02x}; save it as UTF-8"
        ) from None
    # Not splitlines, which knows line ends that no editor shows.
    lines = [line.rstrip("\r") for line in text.split("\n")]
    return [
        (f"line {number} of {file}", {"prompt": line})
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _objects(file: Path) -> list[tuple[str, Request]]:
    found: list[tuple[str, Any]] = []
    for line, value in files.values(file):
        name = f"record {len(found)} of {file} (line {line})"
        if not isinstance(value, dict):
            raise ValueError(f"{name} is no object; write {{'prompt': ...}}")
        found.append((name, value))
    return found
