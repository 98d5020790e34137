"""Records in tables: .csv, .tsv, parquet, directories that ``datasets`` saved, and the hub."""

import contextlib
import csv
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from . import files

HUB = "hub:"
SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""By the ending of a name."""
_ROWS = 1024
"""Rows of a table that are turned into records at once."""
_THRIFT = 2**26
"""Bytes of a text, and entries of a list, in the description of a parquet file."""


def text_table(file: Path) -> Iterator[tuple[int | None, Any]]:
    """The rows of a .csv or .tsv under its first row, as texts."""
    suffix = next(one for one in reversed(file.suffixes) if one.lower() in SEPARATORS)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with files.opened(file) as stream:
        lines = files.decoded(file, stream)
        reader = csv.reader(lines, delimiter=SEPARATORS[suffix.lower()], strict=True)
        line = 1
        try:
            header = next(reader, None)
            if not header or not any(header):
                raise ValueError(f"data file {file} has no row of column names")
            if len({*header}) < len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise ValueError(f"data file {file} names the column {twice!r} twice")
            line = reader.line_num + 1
            for row in reader:
                if row and len(row) != len(header):
                    raise ValueError(
                        f"data file {file} has {len(row)} fields in line {line}, but "
                        f"{len(header)} columns; quote texts that hold separators or line ends"
                    )
                if row:
                    yield line, dict(zip(header, row, strict=True))
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"data file {file} is no table: line {line}: {error}") from None


def parquet(file: Path) -> Iterator[tuple[int | None, Any]]:
    """The rows of a parquet file."""
    try:
        with pq.ParquetFile(
            file, thrift_string_size_limit=_THRIFT, thrift_container_size_limit=_THRIFT
        ) as table:
            _require_columns(file, table.schema_arrow.names)
            for batch in table.iter_batches(batch_size=_ROWS):
                for row in batch.to_pylist():
                    yield None, row
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        cause = " ".join(str(error).split())[:200]
        raise ValueError(
            f"data file {file} is no whole parquet file ({cause}); copy it again"
        ) from None


def _require_columns(file: Path, names: list[str]) -> None:
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"data file {file} names the column {twice!r} twice")


def saved(directory: Path, split: str) -> Iterator[Any]:
    """The records of a directory that ``save_to_disk`` of ``datasets`` wrote."""
    if not any((directory / name).is_file() for name in ("dataset_dict.json", "state.json")):
        raise ValueError(
            f"{directory} is a directory, but none that datasets saved (save_to_disk); name its "
            f"files, such as {directory}/*.jsonl"
        )
    try:
        found: Any = datasets.load_from_disk(str(directory))
    except Exception as error:  # of any kind, for its files are read without checks
        raise _damaged(directory, error) from None
    if isinstance(found, datasets.DatasetDict):
        names = [*found]
        chosen = split or ("train" if "train" in names else names[0] if len(names) == 1 else "")
        if chosen not in names:
            raise ValueError(
                f"{directory} has the splits {', '.join(map(str, names))}; choose one, as "
                f"{directory}:{names[0]}"
            )
        found = found[chosen]
    elif split:
        raise ValueError(f"{directory} has no splits, but {split!r} is named; leave it out")
    try:
        yield from _records(str(directory), found)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(directory, error) from None


def _damaged(directory: Path, error: Exception) -> ValueError:
    cause = " ".join(str(error).split())[:200]
    return ValueError(
        f"{directory} is no whole data set ({type(error).__name__}: {cause}); save it again"
    )


def hub(path: str) -> Iterator[Any]:
    """The records of ``hub:owner/name:split``. Scripts of a data set are never run."""
    name, _, split = path.removeprefix(HUB).partition(":")
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
        yield from _records(path, found)


def _records(path: str, found: Any) -> Iterator[Any]:
    """The records of a data set, in batches. Images and the like are refused before any is read."""
    media = (datasets.Image, datasets.Audio, datasets.Video)
    for column, feature in (found.features or {}).items():
        if isinstance(feature, media):
            raise ValueError(
                f"{path} has {type(feature).__name__.lower()} data in column {column!r}, which is "
                "not trained on here; take the column out"
            )
    for columns in found.with_format(None).iter(_ROWS):
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))
