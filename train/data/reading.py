"""Rows of files as records of one kind, a chunk at a time, and what is said of them at the end."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from . import formats, kinds
from .bad_rows import BadRows
from .containers import Row

_CHUNK = 4096
_PART = 40
"""Bits of the column that numbers records, above which the number of the file stands."""


class Reader:
    """Reads rows to their end, once.

    Args:
        path: as it was given, for messages.
        rows: of each the number of its file, the file's name, and the row.
        prompt: the template; ``auto`` and ``plain`` take the kind from the fields.
        answered: refuse records without a response; if not, ``answer`` is read too.
        columns: of files whose columns have other names.
        skip_bad_rows: leave out what cannot be used.

    Raises:
        ValueError: while it is iterated, as :func:`train.data.records.read`.
    """

    def __init__(
        self,
        path: str,
        rows: Iterable[tuple[int, str, Row]],
        prompt: str,
        answered: bool,
        columns: Mapping[str, str],
        skip_bad_rows: bool,
    ) -> None:
        self.path, self._rows, self._prompt, self._answered = path, rows, prompt, answered
        self._columns = columns
        self.by_fields = prompt in ("auto", "plain")
        self.kind = None if self.by_fields else formats.of_template(prompt)
        self.bad = BadRows(skip_bad_rows)
        self.extra = () if answered else ("answer",)
        self.unused: set[str] = set()
        self.count = 0
        self._digest = hashlib.sha256()
        self._present: dict[str, None] = {}
        self._skip = skip_bad_rows

    @property
    def known_kind(self) -> kinds.Format:
        """The kind of the records; there is one once a record was read."""
        assert self.kind is not None
        return self.kind

    @property
    def identity(self) -> str:
        """16 hexadecimal digits that change with any used field of what was read."""
        return self._digest.hexdigest()[:16]

    @property
    def fields(self) -> list[str]:
        """The used fields that any record has, in the order of its kind."""
        named = (*self.known_kind.fields, *self.extra)
        return [
            *(field for field in named if field in self._present),
            *[kinds.ROW] * self.by_fields,
        ]

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """The records of each chunk that has any; at the end bad and missing ones are refused."""
        identities: list[bytes] = []
        rows = iter(self._rows)
        while chunk := list(itertools.islice(rows, _CHUNK)):
            self.bad.seen(len(chunk))
            used = (self._used(*each) for each in chunk)
            found = [record for record in used if record is not None]
            identities += map(self.known_kind.identity, found) if found else ()
            if not found:
                continue
            if not self.count:
                self._digest.update(self.known_kind.heading.encode())
            self._digest.update(b"".join(identities))
            identities.clear()
            self.count += len(found)
            yield found
        self.bad.require_none()
        if not self.count:
            self._require_some()

    def _used(self, part: int, file: str, row: Row) -> dict[str, Any] | None:
        """The used fields of a row; None where it is left out."""
        number, line, value = row
        place = f"record {number} of {file}" + ("" if line is None else f" (line {line})")
        try:
            mapped = formats.mapped(value, self._columns)
            if self.kind is None:
                known = bool(self._columns)
                self.kind = formats.require_known(self._prompt, mapped, self._answered, known)
        except ValueError as error:
            if self.kind is None and not self._skip:  # all records may be of that kind
                raise ValueError(f"{place} {error}") from None
            self.bad.add(f"{place} {error}")
            return None
        if self.by_fields:
            try:
                formats.require_same(self.kind, self._prompt, mapped)
            except ValueError as error:
                raise ValueError(f"{place} {error}") from None
        try:
            record = self.kind.used(mapped, self._prompt, self._answered, bool(self._columns))
        except ValueError as error:
            self.bad.add(f"{place} {error}")
            return None
        if self._columns:
            self.unused |= {*value} - {*self._columns.values()}
        else:
            self.unused |= self.kind.unused(mapped) - {*self.extra}
        for field in self.extra:  # of text, or as if it were not there
            if isinstance(value.get(field), str):
                record[field] = value[field]
        self._present |= dict.fromkeys(record)
        if self.by_fields:
            record[kinds.ROW] = (part << _PART) + number
        return record

    def _require_some(self) -> None:
        if self.bad.count:
            raise ValueError(f"no record can be used: {self.bad.line(self.path)}")
        raise ValueError(f"{self.path} has no records; check the file and the slice")


def file_and_number(row: int) -> tuple[int, int]:
    """The number of the file, and that of the record in it, from the column that has both."""
    return divmod(row, 1 << _PART)
