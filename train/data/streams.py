"""Records that are not kept in memory: read anew from their files each time they are iterated."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from .reading import Reader


class StreamedRecords:
    """Some of the records of files, or all.

    Args:
        open_: a reader of the files from their beginning.
        first: such a reader that was read to its end.
        order: which records these are, in the order that they have among each other; None for all
            as they stand.
    """

    def __init__(
        self,
        open_: Callable[[], Reader],
        first: Reader,
        order: Int[np.ndarray, "records"] | None = None,
    ) -> None:
        self._open, self._first = open_, first
        self.order = np.arange(first.count) if order is None else order

    def __len__(self) -> int:
        return len(self.order)

    @property
    def column_names(self) -> list[str]:
        """The fields of each record."""
        return self._first.fields

    def select(self, positions: Sequence[int] | Int[np.ndarray, "records"]) -> "StreamedRecords":
        """Those at these positions of :attr:`order`, in their order."""
        return StreamedRecords(self._open, self._first, self.order[np.asarray(positions)])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records as they stand in the files, whatever their order here.

        Raises:
            ValueError: when the files are not what they were.
        """
        reader, fields = self._open(), self._first.fields
        wanted = np.zeros(self._first.count, bool)
        wanted[self.order] = True
        records = itertools.chain.from_iterable(reader)
        for number, record in enumerate(records):
            if number < len(wanted) and wanted[number]:
                yield {field: record.get(field) for field in fields}
        if (reader.count, reader.identity) != (self._first.count, self._first.identity):
            raise ValueError(
                f"{self._first.path} changed while it was read; start again, and leave the files "
                "alone until training ends"
            )

    def file_order(self) -> Int[np.ndarray, "records"]:
        """For each record, in :attr:`order`, which one it is of those that iterating gives."""
        ranks = np.empty(len(self.order), np.int64)
        ranks[np.argsort(self.order, kind="stable")] = np.arange(len(self.order))
        return ranks
