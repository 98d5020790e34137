"""Records of files and of the hub, read into columns; and what says that they are the same."""

import contextlib
import hashlib
import itertools
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from ..config import DataConfig
from ..tasks import convai2
from . import files, formats

_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".txt")
_SLICED = re.compile(r"(.*)\[(\d*):(\d*)\]")
_HUB = "hub:"
_CHUNK = 4096
_NAMED = 20
"""Unused fields that are named; a file may have a new one in each record."""
_KINDS = {formats.TEXT: pa.large_string(), formats.TEXTS: pa.list_(pa.large_string())}

_Numbered = Iterator[tuple[int | None, Any]]
"""Each record, after its line in the file where there is one."""


class Source(NamedTuple):
    """What was read from one path.

    Attributes:
        path: as it was given.
        records: their fields that are used.
        identity: 16 hexadecimal digits that change with any of these fields.
        format: the name of their kind.
        unused: the other fields, which are not read.
    """

    path: str
    records: datasets.Dataset
    identity: str
    format: str
    unused: tuple[str, ...]

    def describe(self) -> str:
        """What it was taken for, in one line."""
        fields = ", ".join(self.records.column_names)
        named = [field if field.isprintable() else repr(field) for field in self.unused[:_NAMED]]
        if len(self.unused) > _NAMED:
            named.append(f"and {len(self.unused) - _NAMED} more")
        left = f"; not used: {', '.join(named)}" if named else ""
        return f"{self.path}: {len(self.records):,} records of kind {self.format} ({fields}){left}"


def read(path: str, prompt: str = "hira", answered: bool = True) -> Source:
    """Read the records of a file.

    Args:
        path: a .json file that holds a list, a .jsonl file, either plain or gzipped, or dialogues
            in ParlAI's text format (.txt), which become a record for each answer. A slice of it
            takes part of the records, or of the dialogues: ``dialogues.txt[:800]``. A data set of
            the hub is ``hub:owner/name`` or ``hub:owner/name:split``; the split is train if unsaid.
        prompt: the template that they are for, which says of which kind they are:
            :data:`train.data.formats.TABLE`.
        answered: refuse records without an ``output``; if not, ``answer`` is read too.

    Raises:
        FileNotFoundError: when there is no such file, or data set of the hub.
        ValueError: when it is no such file, has no records, or a record lacks a field or has one
            of another kind; it names the record, from 0, and its line, from 1.
    """
    sliced = _SLICED.fullmatch(path)
    whole, start, stop = sliced.groups() if sliced else (path, "", "")
    part = slice(int(start) if start else None, int(stop) if stop else None)
    rows = _hub(whole) if whole.startswith(_HUB) else _file(Path(whole), part)
    if Path(whole).suffix == ".txt":
        part = slice(None)  # of the dialogues
    return _columns(
        path, itertools.islice(enumerate(rows), part.start, part.stop), prompt, answered
    )


def load(path: str, prompt: str = "hira", answered: bool = True) -> datasets.Dataset:
    """The records of a file alone: see :func:`read`."""
    return read(path, prompt, answered).records


def sources(config: DataConfig) -> dict[str, Source]:
    """What is read for a run, by the field of the configuration that names it.

    Raises:
        FileNotFoundError: as :func:`read`.
        ValueError: likewise.
    """
    paths = {"config.data.path": config.path, "config.data.validation_path": config.validation_path}
    return {key: read(path, config.prompt) for key, path in paths.items() if path is not None}


def identities(given: Mapping[str, Source]) -> dict[str, str]:
    """Of what :func:`sources` has read, by the same fields."""
    return {field: source.identity for field, source in given.items()}


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
    rest = len(first.records) - config.validation_rows
    if rest < 1:
        raise ValueError(
            f"{config.path} has {len(first.records)} records, so holding out "
            f"config.data.validation_rows={config.validation_rows} leaves none to train on"
        )
    shuffled = _shuffled(first.records, config.split_seed)
    return shuffled.select(range(rest)), shuffled.select(range(rest, len(shuffled)))


def _shuffled(records: datasets.Dataset, seed: int) -> datasets.Dataset:
    """``records.shuffle(seed)``, copied into that order: a look-up a record takes far longer."""
    order = np.random.default_rng(seed).permutation(len(records))
    table = datasets.table.InMemoryTable(records.data.table.take(pa.array(order)))
    return datasets.Dataset(table, fingerprint=f"{records._fingerprint}-{seed}")


def _columns(
    path: str, rows: Iterator[tuple[int, tuple[int | None, Any]]], prompt: str, answered: bool
) -> Source:
    """Read rows to their end, a chunk at a time, into columns of the fields that are used."""
    kind = formats.of_template(prompt)
    types = {field: _KINDS[kind.fields[field]] for field in kind.fields}
    extra = () if answered else ("answer",)
    digest = hashlib.sha256(f"{kind.name}: {', '.join(types)}\n".encode())
    present: dict[str, None] = {}
    unused: set[str] = set()
    tables = []
    while chunk := list(itertools.islice(rows, _CHUNK)):
        found = []
        for number, (line, row) in chunk:
            try:
                record = kind.used(row, prompt, answered)
            except ValueError as error:
                place = "" if line is None else f" (line {line})"
                raise ValueError(f"record {number} of {path}{place} {error}") from None
            digest.update(kind.identity(record))
            unused |= kind.unused(row) - set(extra)
            for field in extra:  # of text, or as if it were not there
                if isinstance(row.get(field), str):
                    record[field] = row[field]
            present |= dict.fromkeys(record)
            found.append(record)
        tables.append(_table(found, types | dict.fromkeys(extra, pa.large_string())))
    if not tables:
        raise ValueError(f"{path} has no records; check the file and the slice")
    fields = [field for field in (*types, *extra) if field in present]
    table = datasets.table.InMemoryTable(pa.concat_tables(tables).select(fields))
    identity = digest.hexdigest()[:16]
    # The name is given because ``datasets`` would make one of a pickle of the whole table.
    records = datasets.Dataset(table, fingerprint=identity)
    return Source(path, records, identity, kind.name, tuple(sorted(unused)))


def _table(rows: list[dict[str, Any]], types: Mapping[str, pa.DataType]) -> pa.Table:
    columns = {field: [row.get(field) for row in rows] for field in types}
    return pa.table({field: pa.array(columns[field], kind) for field, kind in types.items()})


def _file(file: Path, part: slice) -> _Numbered:
    if not file.is_file():
        raise FileNotFoundError(f"data file {file} does not exist; check config.data.path")
    if not file.name.endswith(_SUFFIXES):
        raise ValueError(f"data file {file} ends in none of {_SUFFIXES}")
    return _dialogues(file, part) if file.suffix == ".txt" else _json(file)


def _json(file: Path) -> _Numbered:
    empty = True
    for line, value in files.values(file):
        empty = False
        yield line, value
    if empty:
        raise ValueError(f"data file {file} holds no list of JSON records: it has none")


def _hub(path: str) -> _Numbered:
    name, _, split = path.removeprefix(_HUB).partition(":")
    datasets.disable_progress_bars()
    with contextlib.ExitStack() as stack:
        # ``datasets`` knows a file of a directory by its time and size: such a copy must not last.
        local = Path(name).is_dir()
        cache = stack.enter_context(tempfile.TemporaryDirectory()) if local else None
        try:
            found = datasets.load_dataset(
                name, split=split or "train", cache_dir=cache, keep_in_memory=local or None
            )
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"data set {path} could not be had from the hub: {error}. Check its name and "
                "split, or download it and give the file"
            ) from error
        for row in found:
            yield None, row


def _dialogues(file: Path, part: slice) -> _Numbered:
    try:
        with file.open(encoding="utf-8") as lines:
            read_ = convai2.dialogues(lines)
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"data file {file} is not in ParlAI's text format: {error}") from error
    for dialogue in read_[part]:
        for turn in dialogue:
            yield None, turn
