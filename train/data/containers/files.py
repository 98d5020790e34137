"""The values in a file of JSON, one at a time and with their lines: a list, or one value a line.

A list may stand under a key of an object, beside numbers and texts.
"""

import codecs
import contextlib
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tera_jax import json_files

_BLOCK = 2**18
_SPACE = re.compile(r"[ \t\r\n]*")
_GZIP = b"\x1f\x8b"
_STRING = r'"(?:[^"\\]|\\.)*"'
_SCALAR = rf"(?:{_STRING}|[-+.\w]+)"
_UNDER_KEY = re.compile(
    rf"\{{\s*(?:{_STRING}\s*:\s*{_SCALAR}\s*,\s*)*({_STRING})\s*:\s*(?=\[\s*\{{)".encode(),
    re.DOTALL,
)
"""An object whose first value that is no number or text is a list of objects."""
_REST = re.compile(rf"(?:\s*,\s*{_STRING}\s*:\s*{_SCALAR})*\s*\}}\s*", re.DOTALL)
"""What may follow that list."""
_OF_RECORDS = ("messages", "conversations", "prompt", "completion", "history", "chosen", "rejected")
"""Keys of a record whose value is a list of objects."""
_HEAD = 2**16
"""Bytes in which such a list must begin."""
_CUT_ESCAPE = 16
"""Characters before the end in which an error may come from a value that the block cuts."""


def values(file: Path) -> Iterator[tuple[int, Any]]:
    """Each value of a list, or of a file with one a line, and the line that it begins in, from 1.

    What it is says the first character; blank lines are passed over. The file is read as it goes,
    so that no more than a block of it stands in memory. A name that ends in .gz is decompressed.

    Raises:
        ValueError: naming the file, the record and its line: for what is no JSON, a field that
            stands twice in a record, text that is not UTF-8, or a damaged .gz.
    """
    with opened(file) as stream:
        yield from _values(file, stream)


@contextlib.contextmanager
def opened(file: Path) -> Iterator[io.BufferedIOBase]:
    """The bytes of a file, decompressed where its name or its first bytes say so.

    Raises:
        ValueError: for a damaged .gz, also while it is read.
    """
    with file.open("rb") as start:
        packed = file.suffix == ".gz" or start.read(len(_GZIP)) == _GZIP
    with gzip.open(file) if packed else file.open("rb") as stream:
        try:
            yield stream
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"data file {file} is no whole gzip file: {error}; copy it again"
            ) from None


def decoded(file: Path, stream: io.BufferedIOBase) -> Iterator[str]:
    """The lines of a file of text, a mark of UTF-8 at its start left out.

    Raises:
        ValueError: for other bytes than UTF-8, with the line.
    """
    for number, line in enumerate(stream, 1):
        content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            yield content.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(file, error, number) from None


def _not_utf8(file: Path, error: UnicodeDecodeError, line: int) -> ValueError:
    byte = error.object[error.start]
    return ValueError(
        f"data file {file} is not UTF-8: line {line} has the byte 0x{byte:02x}; save it as UTF-8"
    )


def _values(file: Path, stream: io.BufferedIOBase) -> Iterator[tuple[int, Any]]:
    start, line = stream.read(len(codecs.BOM_UTF8)), 1
    if start == codecs.BOM_UTF8:
        start = b""
    while not start.strip():
        line += start.count(b"\n")
        start = stream.read(1)
        if not start:
            return
    space = len(start) - len(start.lstrip())
    line += start[:space].count(b"\n")
    start = start[space:]
    if start.startswith(b"{"):
        start += stream.read(_HEAD)
        under = None if _is_line(file, start) else _UNDER_KEY.match(start)
        if under and json.loads(under[1]) not in _OF_RECORDS:
            line += start.count(b"\n", 0, under.end())
            yield from _List(file, start[under.end() :], stream, line, _REST)
            return
    listed = start.startswith(b"[")
    yield from (_List if listed else _Lines)(file, start, stream, line)


def _is_line(file: Path, start: bytes) -> bool:
    """Whether a file that begins with an object has one a line."""
    line, end, rest = start.partition(b"\n")
    if ".jsonl" in file.suffixes or not (end and rest.strip()):
        return ".jsonl" in file.suffixes
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


class _Reader:
    """What both kinds share: where they are, and how they say what is wrong."""

    def __init__(self, file: Path, start: bytes, stream: io.BufferedIOBase, line: int) -> None:
        self._file, self._start, self._stream, self._line = file, start, stream, line
        self._number = 0
        self._decoder = json.JSONDecoder(object_pairs_hook=_record)

    def _wrong(self, what: object) -> ValueError:
        return ValueError(
            f"data file {self._file} holds no list of JSON records: record {self._number} "
            f"(line {self._line}): {what}"
        )


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"field {json_files.repeated(pairs)!r} stands twice in it")
    return found


class _Lines(_Reader):
    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for content in self._contents():
            text = self._text(content).strip()
            if text:
                yield self._line, self._value(text)
                self._number += 1
            self._line += 1

    def _contents(self) -> Iterator[bytes]:
        """The lines, of which the first are in what was read already."""
        *whole, cut = self._start.split(b"\n")
        yield from whole
        yield cut + self._stream.readline()
        yield from iter(self._stream.readline, b"")

    def _text(self, content: bytes) -> str:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(self._file, error, self._line) from None

    def _value(self, text: str) -> Any:
        try:
            return self._decoder.decode(text)
        except json.JSONDecodeError as error:
            raise self._wrong(f"{error.msg} at column {error.pos + 1}") from None
        except ValueError as error:  # a field twice, a number without end
            raise self._wrong(error) from None
        except RecursionError:
            raise self._wrong("it is nested too deeply") from None


class _List(_Reader):
    def __init__(
        self,
        file: Path,
        start: bytes,
        stream: io.BufferedIOBase,
        line: int,
        rest: re.Pattern[str] | None = None,
    ) -> None:
        super().__init__(file, start, stream, line)
        self._rest = rest
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._ended = "", 0, False

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        self._read()
        self._at += 1  # the bracket
        mark = self._next()
        if mark == "]":
            self._at += 1
        while mark != "]":
            line = self._line
            yield line, self._value()
            mark = self._next()
            if mark not in (",", "]"):
                raise self._wrong("no ',' or ']' after it" if mark else "the file ends after it")
            self._at += 1
            self._number += 1
            if mark == ",":
                self._next()
        if self._rest is not None:
            while self._read() and len(self._text) < _HEAD:
                pass
            if not self._rest.fullmatch(self._text, self._at):
                raise self._wrong("more than numbers and texts stand beside the list")
        elif self._next():
            raise self._wrong("text stands after the end of the list")

    def _next(self) -> str:
        """The next character that is no space, or none at the end."""
        while True:
            end = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            self._line += self._text.count("\n", self._at, end)
            self._at = end
            if end < len(self._text) or not self._read():
                return self._text[end : end + 1]

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.pos > len(self._text) - _CUT_ESCAPE or "Unterminated" in error.msg
                if not (cut and self._read()):
                    raise self._wrong(error.msg) from None
            except ValueError as error:  # a field twice, a number without end
                raise self._wrong(error) from None
            except RecursionError:
                raise self._wrong("it is nested too deeply") from None
            else:
                self._line += self._text.count("\n", self._at, end)
                self._at = end
                return value

    def _read(self) -> bool:
        """Whether there was more to read: as much again as is left, for a value that is cut."""
        if self._ended:
            return False
        left = self._text[self._at :]
        content = self._start + self._stream.read(max(_BLOCK, len(left)))
        self._start, self._ended = b"", not content
        try:
            self._text = left + self._utf8.decode(content, final=self._ended)
        except UnicodeDecodeError as error:
            before = left.count("\n") + error.object[: error.start].count(b"\n")
            raise _not_utf8(self._file, error, self._line + before) from None
        self._at = 0
        return not self._ended
