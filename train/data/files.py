"""The values in a file of JSON, one at a time and with their lines: a list, or one value a line."""

import codecs
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
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        try:
            yield from _values(file, stream)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"data file {file} is no whole gzip file: {error}; copy it again"
            ) from None


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
    listed = start.lstrip().startswith(b"[")
    yield from (_List if listed else _Lines)(file, start[space:], stream, line)


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

    def _not_utf8(self, error: UnicodeDecodeError, line: int) -> ValueError:
        byte = error.object[error.start]
        return ValueError(
            f"data file {self._file} is not UTF-8: line {line} has the byte 0x{byte:02x}; save it "
            "as UTF-8"
        )


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"field {json_files.repeated(pairs)!r} stands twice in it")
    return found


class _Lines(_Reader):
    def __iter__(self) -> Iterator[tuple[int, Any]]:
        content = self._start + self._stream.readline()
        while content:
            text = self._text(content).strip()
            if text:
                yield self._line, self._value(text)
                self._number += 1
            self._line += 1
            content = self._stream.readline()

    def _text(self, content: bytes) -> str:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise self._not_utf8(error, self._line) from None

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
    def __init__(self, file: Path, start: bytes, stream: io.BufferedIOBase, line: int) -> None:
        super().__init__(file, start, stream, line)
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
        if self._next():
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
            raise self._not_utf8(error, self._line + before) from None
        self._at = 0
        return not self._ended
