"""Examples whose token ids stand in a temporary file, of which each is read when it is needed.

In memory are 33 bytes an example: where it stands, its lengths, and its place in the order. The
file takes 5 bytes a token. It has no name where the system can do without one, and goes with its
process.
"""

import array
import os
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from .examples import Cuts, Example, Examples

_ID, _MASK = 4, 1
"""Bytes of a token's id, and of its mask."""


class _TokenFile:
    """A file that is closed, and so gone, with the last that holds this."""

    def __init__(self, directory: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def write(self, content: bytes) -> None:
        """Put bytes at the end."""
        self._file.write(content)

    def flush(self) -> None:
        """Before it is read."""
        self._file.flush()

    def read(self, start: int, count: int) -> bytes:
        """Bytes from a place on; any number of threads may read at once."""
        return os.pread(self._file.fileno(), count, start)


class StoredRows:
    """Examples that are put one after the other into a file.

    Args:
        directory: gets the file; None takes the system's directory of temporary files.
    """

    def __init__(self, directory: Path | None) -> None:
        self._file = _TokenFile(directory)
        self._lengths, self._counts = array.array("q"), array.array("q")
        self._firsts, self._kept = bytearray(), bytearray()
        self._ends = True
        self.cuts = Cuts()

    def add(self, ids: Sequence[int], mask: Iterable[int], cuts: Cuts) -> None:
        """An example, and the counts with it."""
        marks = bytes(mask)
        self._file.write(np.asarray(ids, np.int32).tobytes() + marks)
        self._lengths.append(len(ids))
        self._counts.append(sum(marks))
        self._firsts.append(marks[0] if marks else 0)
        self._ends &= marks == bytes(sorted(marks))
        self._kept.append(1)
        self.cuts = cuts

    def drop(self, cuts: Cuts) -> None:
        """A record that is left out."""
        self._kept.append(0)
        self.cuts = cuts

    def examples(self, order: Int[np.ndarray, "records"]) -> "StoredExamples":
        """The examples that were added.

        Args:
            order: of all records, those left out too, by when they came.
        """
        self._file.flush()
        lengths = np.frombuffer(self._lengths, np.int64)
        starts = (_ID + _MASK) * (np.cumsum(lengths) - lengths)
        kept = np.frombuffer(self._kept, bool)
        place = (np.cumsum(kept) - 1)[order[kept[order]]]
        counts = np.frombuffer(self._counts, np.int64)
        firsts = np.frombuffer(self._firsts, np.uint8)
        columns = _Columns(starts[place], lengths[place], counts[place], firsts[place])
        return StoredExamples(self._file, columns, self._ends, self.cuts)


class _Columns(NamedTuple):
    """Of each example: where it starts, its tokens, those with a loss, and its first mask."""

    starts: Int[np.ndarray, " examples"]
    lengths: Int[np.ndarray, " examples"]
    counts: Int[np.ndarray, " examples"]
    firsts: UInt8[np.ndarray, " examples"]


class StoredExamples(Examples):
    """Examples in a file, from :meth:`StoredRows.examples`."""

    def __init__(self, file: _TokenFile, columns: _Columns, ends: bool, cuts: Cuts) -> None:
        self.cuts = cuts
        self._file, self._ends = file, ends
        self._starts, self._lengths, self._counts, self._firsts = columns
        self._virtual = ()

    def _read(self, index: int) -> Example:
        length, start = int(self._lengths[index]), int(self._starts[index])
        content = self._file.read(start, (_ID + _MASK) * length)
        ids = np.frombuffer(content, np.int32, length)
        return Example(ids.tolist(), list(content[_ID * length :]))

    def lengths(self) -> tuple[Int[np.ndarray, "examples"], Int[np.ndarray, "examples"]]:
        """See :meth:`Examples.lengths`."""
        return self._lengths + len(self._virtual), self._counts

    def first_masks(self) -> Int[np.ndarray, "examples"]:
        """See :meth:`Examples.first_masks`."""
        firsts = np.zeros_like(self._firsts) if self._virtual else self._firsts
        return firsts.astype(np.int64)

    def end_in_targets(self) -> bool:
        """See :meth:`Examples.end_in_targets`."""
        return self._ends
