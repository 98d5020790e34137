"""Records of files and of the hub, read into columns; and what says that they are the same."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import datasets
import numpy as np
import pyarrow as pa

from ..config import ColumnsConfig, DataConfig
from . import containers, kinds
from .containers import Row
from .conversations import templates
from .reading import Reader, file_and_number
from .streams import StreamedRecords

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
_HELD_OUT, _HELD_OUT_SHARE = 120, 0.1


Records: TypeAlias = datasets.Dataset | StreamedRecords
"""In memory, or read anew."""


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
    records: Records
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
        part, number = file_and_number(row)
        return f"record {number} of {self.parts[part] if self.parts else self.path}"


def read(
    path: str,
    prompt: str = "hira",
    answered: bool = True,
    columns: ColumnsConfig = ColumnsConfig(),  # noqa: B008 - of names
    skip_bad_rows: bool = False,
    streaming: bool = False,
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
        streaming: keep no record in memory, and read the files anew where they are needed.

    Raises:
        FileNotFoundError: when there is no such file, or data set of the hub.
        ValueError: when a file is of no kind that is read or has no records, or a record lacks a
            field or has one of another kind. It names the record, from 0, and its line, from 1.
    """
    parts = containers.parts(path)
    single = len(parts) == 1

    def reader() -> Reader:
        rows = (
            (number, path if single else part, row)
            for number, part in enumerate(parts)
            for row in containers.rows(part)
        )
        return Reader(path, rows, prompt, answered, columns.given(), skip_bad_rows)

    first = reader()
    if streaming:
        for _ in first:
            pass
        source = _source(first, StreamedRecords(reader, first))
    else:
        source = _loaded(first)
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
    return _loaded(Reader(name, numbered, prompt, True, columns.given(), skip_bad_rows))


def load(
    path: str,
    prompt: str = "hira",
    answered: bool = True,
    columns: ColumnsConfig = ColumnsConfig(),  # noqa: B008 - of names
) -> datasets.Dataset:
    """The records of a file alone: see :func:`read`."""
    found = read(path, prompt, answered, columns).records
    assert isinstance(found, datasets.Dataset)
    return found


def sources(config: DataConfig) -> dict[str, Source]:
    """What is read for a run, by the field of the configuration that names it.

    Raises:
        FileNotFoundError: as :func:`read`.
        ValueError: likewise.
    """
    paths = {"config.data.path": config.path, "config.data.validation_path": config.validation_path}
    return {
        key: read(path, config.prompt, True, config.columns, config.skip_bad_rows, config.streaming)
        for key, path in paths.items()
        if path is not None
    }


def counts(given: Mapping[str, Source]) -> dict[str, int]:
    """How many records each source has, by its field."""
    return {key: len(source.records) for key, source in given.items()}


def identities(given: Mapping[str, Source], config: DataConfig | None = None) -> dict[str, str]:
    """Of what :func:`sources` has read, by the same fields; and of a file of a chat template."""
    found = {field: source.identity for field, source in given.items()}
    if config is not None and config.chat_template is not None:
        text = templates.load_template(config.chat_template) or ""
        digest = hashlib.sha256(text.encode()).hexdigest()
        found["config.data.chat_template"] = digest[:16]
    return found


def split(config: DataConfig, given: Mapping[str, Source] | None = None) -> tuple[Records, Records]:
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


def shuffled(records: Records, seed: int) -> Records:
    """``records.shuffle(seed)``, copied into that order: a look-up a record takes far longer."""
    order = np.random.default_rng(seed).permutation(len(records))
    if isinstance(records, StreamedRecords):
        return records.select(order)
    table = datasets.table.InMemoryTable(records.data.table.take(pa.array(order)))
    return datasets.Dataset(table, fingerprint=f"{records._fingerprint}-{seed}")


def _loaded(reader: Reader) -> Source:
    """All that a reader has, in columns of the fields that are used."""
    tables = [_table(found, reader) for found in reader]
    table = datasets.table.InMemoryTable(pa.concat_tables(tables).select(reader.fields))
    # The name is given because ``datasets`` would make one of a pickle of the whole table.
    return _source(reader, datasets.Dataset(table, fingerprint=reader.identity))


def _source(reader: Reader, records: Records) -> Source:
    """Of a reader at its end."""
    bad = reader.bad
    skipped = bad.line(reader.path) if bad.count else ""
    named = tuple(sorted(map(str, reader.unused)))
    kind = reader.known_kind.name
    return Source(reader.path, records, reader.identity, kind, named, (), skipped, bad.count)


def _table(rows: list[dict[str, Any]], reader: Reader) -> pa.Table:
    types = {field: _KINDS[type_] for field, type_ in reader.known_kind.fields.items()}
    types |= dict.fromkeys(reader.extra, pa.large_string())
    types |= {kinds.ROW: pa.int64()} if reader.by_fields else {}
    columns = {field: [row.get(field) for row in rows] for field in types}
    return pa.table({field: pa.array(columns[field], type_) for field, type_ in types.items()})
