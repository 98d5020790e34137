"""Records of files and of the hub, read into columns; and what says that they are the same."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from ..config import ColumnsConfig, DataConfig
from . import containers, formats, kinds
from .bad_rows import BadRows
from .containers import Row
from .conversations import templates

_CHUNK = 4096
_NAMED = 20
"""Unused fields that are named; a file may have a new one in each record."""
_FILES = 5
"""Files that are named, of those that a glob matches."""
_KINDS = {
    kinds.TEXT: pa.large_string(),
    kinds.TEXTS: pa.list_(pa.large_string()),
    kinds.TURNS: pa.large_string(),
    kinds.TOOLS: pa.large_string(),
}
_PART = 40
"""Bits of the column that numbers records, above which the number of the file stands."""
_HELD_OUT, _HELD_OUT_SHARE = 120, 0.1


class Source(NamedTuple):
    """What was read from one path.

    Attributes:
        path: as it was given.
        records: their fields that are used.
        identity: 16 hexadecimal digits that change with any of these fields.
        format: the name of their kind.
        unused: the other fields, which are not read.
        parts: the files that the path names.
        skipped: records that were left out, as a line of the log, or nothing.
        dropped: how many these are.
    """

    path: str
    records: datasets.Dataset
    identity: str
    format: str
    unused: tuple[str, ...]
    parts: tuple[str, ...] = ()
    skipped: str = ""
    dropped: int = 0

    def describe(self) -> str:
        """What it was taken for, in one line."""
        fields = ", ".join(name for name in self.records.column_names if name != kinds.ROW)
        named = [field if field.isprintable() else repr(field) for field in self.unused[:_NAMED]]
        if len(self.unused) > _NAMED:
            named.append(f"and {len(self.unused) - _NAMED} more")
        left = f"; not used: {', '.join(named)}" if named else ""
        files = ""
        if len(self.parts) > 1:
            more = ["..."] if len(self.parts) > _FILES else []
            files = f" of {len(self.parts)} files ({', '.join([*self.parts[:_FILES], *more])})"
        return (
            f"{self.path}: {len(self.records):,} records{files} of kind {self.format} ({fields})"
            f"{left}"
        )

    def place(self, row: int) -> str:
        """The name of a record by its number in the column that has it."""
        part, number = divmod(row, 1 << _PART)
        return f"record {number} of {self.parts[part] if self.parts else self.path}"


def read(
    path: str,
    prompt: str = "hira",
    answered: bool = True,
    columns: ColumnsConfig = ColumnsConfig(),  # noqa: B008 - of names
    skip_bad_rows: bool = False,
) -> Source:
    """Read the records of a path.

    Args:
        path: files and globs with commas between them, a directory that ``datasets`` saved, or
            ``hub:owner/name:split``, whose split is train if unsaid: :mod:`.containers`. A slice
            takes part of the records, or of ParlAI's dialogues: ``dialogues.txt[:800]``.
        prompt: the template that they are for, which says of which kind they are; ``auto`` and
            ``plain`` take the kind from their fields: :data:`train.data.formats.TABLE`.
        answered: refuse records without a response; if not, ``answer`` is read too.
        columns: of files whose columns have other names.
        skip_bad_rows: leave out what cannot be used.

    Raises:
        FileNotFoundError: when there is no such file, or data set of the hub.
        ValueError: when a file is of no kind that is read or has no records, or a record lacks a
            field or has one of another kind. It names the record, from 0, and its line, from 1.
    """
    parts = containers.parts(path)
    single = len(parts) == 1
    rows = (
        (number, path if single else part, row)
        for number, part in enumerate(parts)
        for row in containers.rows(part)
    )
    source = _columns(path, rows, prompt, answered, columns.given(), skip_bad_rows)
    return source._replace(parts=(path,) if single else tuple(parts))


def of_rows(
    rows: Iterable[Any],
    prompt: str = "auto",
    columns: ColumnsConfig = ColumnsConfig(),  # noqa: B008 - of names
    skip_bad_rows: bool = False,
    name: str = "records",
) -> Source:
    """Records that are in memory, as :func:`read` has those of a file.

    Args:
        rows: a dictionary each.
        prompt: as for :func:`read`.
        columns: likewise.
        skip_bad_rows: likewise.
        name: what messages call them.

    Raises:
        ValueError: as :func:`read`.
    """
    numbered = ((0, name, Row(number, None, row)) for number, row in enumerate(rows))
    return _columns(name, numbered, prompt, True, columns.given(), skip_bad_rows)


def load(
    path: str,
    prompt: str = "hira",
    answered: bool = True,
    columns: ColumnsConfig = ColumnsConfig(),  # noqa: B008 - of names
) -> datasets.Dataset:
    """The records of a file alone: see :func:`read`."""
    return read(path, prompt, answered, columns).records


def sources(config: DataConfig) -> dict[str, Source]:
    """What is read for a run, by the field of the configuration that names it.

    Raises:
        FileNotFoundError: as :func:`read`.
        ValueError: likewise.
    """
    paths = {"config.data.path": config.path, "config.data.validation_path": config.validation_path}
    return {
        key: read(path, config.prompt, True, config.columns, config.skip_bad_rows)
        for key, path in paths.items()
        if path is not None
    }


def identities(given: Mapping[str, Source], config: DataConfig | None = None) -> dict[str, str]:
    """Of what :func:`sources` has read, by the same fields; and of a file of a chat template."""
    found = {field: source.identity for field, source in given.items()}
    if config is not None and config.chat_template is not None:
        text = templates.load_template(config.chat_template) or ""
        digest = hashlib.sha256(text.encode()).hexdigest()
        found["config.data.chat_template"] = digest[:16]
    return found


def split(
    config: DataConfig, given: Mapping[str, Source] | None = None
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The training and the held-out records.

    Args:
        config: which, and how many of them are held out.
        given: what :func:`sources` has read, if it has.

    Raises:
        FileNotFoundError: as :func:`read`.
        ValueError: as :func:`read`, or when no record is left to train on.
    """
    first, *second = (sources(config) if given is None else given).values()
    if second:
        return first.records, second[0].records
    rows = config.validation_rows
    if rows is None:
        rows = max(1, min(_HELD_OUT, int(_HELD_OUT_SHARE * len(first.records))))
    rest = len(first.records) - rows
    if rest < 1:
        raise ValueError(
            f"{config.path} has {len(first.records)} records, so holding out "
            f"config.data.validation_rows={rows} leaves none to train on"
        )
    mixed = shuffled(first.records, config.split_seed)
    return mixed.select(range(rest)), mixed.select(range(rest, len(mixed)))


def shuffled(records: datasets.Dataset, seed: int) -> datasets.Dataset:
    """``records.shuffle(seed)``, copied into that order: a look-up a record takes far longer."""
    order = np.random.default_rng(seed).permutation(len(records))
    table = datasets.table.InMemoryTable(records.data.table.take(pa.array(order)))
    return datasets.Dataset(table, fingerprint=f"{records._fingerprint}-{seed}")


def _columns(
    path: str,
    rows: Iterator[tuple[int, str, Row]],
    prompt: str,
    answered: bool,
    columns: Mapping[str, str],
    skip_bad_rows: bool,
) -> Source:
    """Read rows to their end, a chunk at a time, into columns of the fields that are used."""
    by_fields = prompt in ("auto", "plain")
    kind = None if by_fields else formats.of_template(prompt)
    bad = BadRows(skip_bad_rows)
    extra = () if answered else ("answer",)
    identities: list[bytes] = []
    digest = hashlib.sha256()
    present: dict[str, None] = {}
    unused: set[str] = set()
    tables: list[pa.Table] = []
    while chunk := list(itertools.islice(rows, _CHUNK)):
        found = []
        bad.seen(len(chunk))
        for part, file, (number, line, value) in chunk:
            place = f"record {number} of {file}" + ("" if line is None else f" (line {line})")
            try:
                row = formats.mapped(value, columns)
                if kind is None:
                    kind = formats.require_known(prompt, row, answered, bool(columns))
            except ValueError as error:
                if kind is None and not skip_bad_rows:  # all records may be of that kind
                    raise ValueError(f"{place} {error}") from None
                bad.add(f"{place} {error}")
                continue
            if by_fields:
                try:
                    formats.require_same(kind, prompt, row)
                except ValueError as error:
                    raise ValueError(f"{place} {error}") from None
            try:
                record = kind.used(row, prompt, answered, bool(columns))
            except ValueError as error:
                bad.add(f"{place} {error}")
                continue
            identities.append(kind.identity(record))
            unused |= {*value} - {*columns.values()} if columns else kind.unused(row) - {*extra}
            for field in extra:  # of text, or as if it were not there
                if isinstance(value.get(field), str):
                    record[field] = value[field]
            present |= dict.fromkeys(record)
            if by_fields:
                record[kinds.ROW] = (part << _PART) + number
            found.append(record)
        if kind is not None and found:
            if not tables:
                digest.update(kind.heading.encode())
            digest.update(b"".join(identities))
            identities.clear()
            tables.append(_table(found, kind, extra, by_fields))
    bad.require_none()
    if not tables:
        _require_some(path, bad)
    assert kind is not None
    fields = [field for field in (*kind.fields, *extra) if field in present]
    fields += [kinds.ROW] * by_fields
    table = datasets.table.InMemoryTable(pa.concat_tables(tables).select(fields))
    identity = digest.hexdigest()[:16]
    # The name is given because ``datasets`` would make one of a pickle of the whole table.
    records = datasets.Dataset(table, fingerprint=identity)
    skipped = bad.line(path) if bad.count else ""
    named = tuple(sorted(map(str, unused)))
    return Source(path, records, identity, kind.name, named, (), skipped, bad.count)


def _require_some(path: str, bad: BadRows) -> None:
    if bad.count:
        raise ValueError(f"no record can be used: {bad.line(path)}")
    raise ValueError(f"{path} has no records; check the file and the slice")


def _table(
    rows: list[dict[str, Any]], kind: kinds.Format, extra: tuple[str, ...], numbered: bool
) -> pa.Table:
    types = {field: _KINDS[type_] for field, type_ in kind.fields.items()}
    types |= dict.fromkeys(extra, pa.large_string())
    types |= {kinds.ROW: pa.int64()} if numbered else {}
    columns = {field: [row.get(field) for row in rows] for field in types}
    return pa.table({field: pa.array(columns[field], type_) for field, type_ in types.items()})
