"""What records come in: files, globs, directories of ``datasets`` and the hub, read row by row.

A file is what its first bytes say. Where these say nothing, as of a table of text, its name does.
Nothing that is read can run code: no pickles, and no scripts of a data set.
"""

import collections
import glob
import gzip
import itertools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ...tasks import convai2
from . import files, tables

_SLICED = re.compile(r"(.*)\[(-?\d*):(-?\d*)\]")
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_KNOWN = (
    ".json, .jsonl, .csv and .tsv, plain or .gz, .parquet, ParlAI's .txt, a directory that "
    "datasets saved, hub:owner/name:split"
)


class Row(NamedTuple):
    """A record as it stands.

    Attributes:
        number: which it is of its file, from 0.
        line: where it begins, from 1; None where there are no lines.
        value: most often a dictionary.
    """

    number: int
    line: int | None
    value: Any


def parts(path: str) -> list[str]:
    """The files that a path names, each with its slice: commas and globs are resolved, and sorted.

    Raises:
        FileNotFoundError: for a glob that no file matches.
    """
    if _exists(path):
        return [path]
    found: list[str] = []
    for part in filter(None, map(str.strip, path.split(","))):
        whole, slice_ = _parted(part)
        if _exists(part) or not glob.has_magic(whole):
            found.append(part)
            continue
        matches = sorted(glob.glob(whole, recursive=True))
        if not matches:
            raise FileNotFoundError(f"no data file matches {whole}; check config.data.path")
        found += [match + slice_ for match in matches]
    return found


def rows(part: str) -> Iterator[Row]:
    """The records of one file with its slice, as :func:`parts` gives them.

    Raises:
        FileNotFoundError: when there is no such file, or data set of the hub.
        ValueError: for a file that cannot be read, with its name, and its line where it has lines.
    """
    whole, slice_ = _parted(part)
    first, _, last = slice_.strip("[]").partition(":")
    start, stop = (int(end) if end else None for end in (first, last))
    if not whole.startswith(tables.HUB) and Path(whole).is_file() and _is_dialogues(Path(whole)):
        for number, turn in enumerate(_dialogues(Path(whole), slice(start, stop))):
            yield Row(number, None, turn)
        return
    numbered = (Row(number, *found) for number, found in enumerate(_values(whole)))
    yield from sliced(numbered, start, stop)


def sliced(items: Iterable[Row], start: int | None, stop: int | None) -> Iterator[Row]:
    """``items[start:stop]`` of what is read once; it holds no more than a negative end asks for."""
    if (start or 0) >= 0 and (stop is None or stop >= 0):
        yield from itertools.islice(items, start, stop)
    elif start is not None and start < 0:
        last, count = collections.deque[Row](maxlen=-start), 0
        for count, item in enumerate(items, 1):  # noqa: B007 - of the last
            last.append(item)
        end = count if stop is None else stop if stop >= 0 else count + stop
        first = count - len(last)
        yield from (item for index, item in enumerate(last, first) if index < end)
    else:
        assert stop is not None
        held = collections.deque[Row]()
        for item in itertools.islice(items, start, None):
            held.append(item)
            if len(held) > -stop:
                yield held.popleft()


def _parted(part: str) -> tuple[str, str]:
    """A path and its slice, or none."""
    found = _SLICED.fullmatch(part)
    if found is None or Path(part).exists():
        return part, ""
    return found[1], f"[{found[2]}:{found[3]}]"


def _exists(path: str) -> bool:
    whole, _ = _parted(path)
    return (whole.startswith(tables.HUB) and "," not in whole) or Path(whole).exists()


def _values(whole: str) -> Iterator[tuple[int | None, Any]]:
    """The records of a path without its slice, each after its line."""
    if whole.startswith(tables.HUB):
        return ((None, value) for value in tables.hub(whole))
    path, _, split = whole.rpartition(":")
    directory = Path(whole) if Path(whole).is_dir() else Path(path)
    if Path(whole).is_dir() or (path and directory.is_dir()):
        return (
            (None, value)
            for value in tables.saved(directory, "" if Path(whole).is_dir() else split)
        )
    file = Path(whole)
    if not file.is_file():
        raise FileNotFoundError(f"data file {file} does not exist; check its path")
    return _reader(file)(file)


def _reader(file: Path) -> Callable[[Path], Iterator[tuple[int | None, Any]]]:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    packed = suffixes[-1:] == [".gz"]
    name = "".join(suffixes[-1 - packed : len(suffixes) - packed])
    start = _start(file)
    if start.startswith(_PARQUET):
        return tables.parquet
    if name in (".json", ".jsonl"):
        return _json
    if name in tables.SEPARATORS:
        return tables.text_table
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"{"):
        return _json
    raise ValueError(f"data file {file} is of no kind that is read: {_KNOWN}")


def _start(file: Path) -> bytes:
    """The first bytes of a file, or of what it packs."""
    with file.open("rb") as stream:
        start = stream.read(64)
    if start.startswith(_GZIP):
        try:
            with gzip.open(file) as stream:
                return stream.read(64)
        except (EOFError, OSError, zlib.error):
            return b""  # its reader says what is wrong
    return start


def _is_dialogues(file: Path) -> bool:
    return file.suffix == ".txt" and _start(file).lstrip()[:1] not in (b"[", b"{")


def _json(file: Path) -> Iterator[tuple[int | None, Any]]:
    empty = True
    for line, value in files.values(file):
        empty = False
        yield line, value
    if empty:
        raise ValueError(f"data file {file} holds no list of JSON records: it has none")


def _dialogues(file: Path, part: slice) -> Iterator[Any]:
    try:
        with file.open(encoding="utf-8") as lines:
            read = convai2.dialogues(lines)
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"data file {file} is not in ParlAI's text format: {error}") from error
    for dialogue in read[part]:
        yield from dialogue
