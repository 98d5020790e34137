"""Files of records: instructions with outputs, or dialogues."""

import re
from pathlib import Path
from typing import NamedTuple

import datasets

from train import tasks
from train.config import DataConfig
from train.tasks import convai2

_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".txt")
_SLICED = re.compile(r"(.*)\[(\d*):(\d*)\]")


class _Source(NamedTuple):
    """A path, and the slice of what the file holds."""

    file: Path
    part: slice


def load(path: str, prompt: str = "hira", answered: bool = True) -> datasets.Dataset:
    """Read the records of a file.

    Args:
        path: a .json file that holds a list, a .jsonl file, either plain or gzipped, or dialogues
            in ParlAI's text format (.txt), which become a record for each answer. A slice of it
            takes part of the records, or of the dialogues: ``dialogues.txt[:800]``.
        prompt: the style of prompt they are for, which says what fields they need.
        answered: refuse records without an ``output``.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no such file, has no records, or a record lacks a field.
    """
    file, part = _source(path)
    if not file.is_file():
        raise FileNotFoundError(f"data file {file} does not exist; check config.data.path")
    if not file.name.endswith(_SUFFIXES):
        raise ValueError(f"data file {file} ends in none of {_SUFFIXES}")
    records = _dialogues(file, part) if file.suffix == ".txt" else _json(file, part)
    if not len(records):
        raise ValueError(f"{path} has no records; check the file and the slice")
    fields = tasks.fields(prompt) | ({"output": str} if answered else {})
    for field, kind in fields.items():
        column = records[field] if field in records.column_names else [None] * len(records)
        for row, value in enumerate(column):
            if not isinstance(value, kind) or value == "":
                what = "text" if kind is str else kind.__name__
                raise ValueError(
                    f"record {row} of {path} has no {what} in field {field!r}; with "
                    f"config.data.prompt={prompt} each record needs {sorted(fields)}"
                )
    return records


def split(config: DataConfig) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The training and the held-out records.

    Raises:
        FileNotFoundError: as :func:`load`.
        ValueError: as :func:`load`, or when no record is left to train on.
    """
    records = load(config.path, config.prompt)
    if config.validation_path is not None:
        return records, load(config.validation_path, config.prompt)
    rest = len(records) - config.validation_rows
    if rest < 1:
        raise ValueError(
            f"{config.path} has {len(records)} records, so holding out "
            f"config.data.validation_rows={config.validation_rows} leaves none to train on"
        )
    shuffled = records.shuffle(seed=config.split_seed)
    return shuffled.select(range(rest)), shuffled.select(range(rest, len(records)))


def _source(path: str) -> _Source:
    sliced = _SLICED.fullmatch(path)
    if sliced is None:
        return _Source(Path(path), slice(None))
    start, stop = (int(text) if text else None for text in sliced.groups()[1:])
    return _Source(Path(sliced[1]), slice(start, stop))


def _json(file: Path, part: slice) -> datasets.Dataset:
    datasets.disable_progress_bars()
    try:
        records = datasets.load_dataset("json", data_files=str(file), split="train")
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        cause = error.__cause__ or error
        raise ValueError(f"data file {file} holds no list of JSON records: {cause}") from error
    return records.select(list(range(*part.indices(len(records)))))


def _dialogues(file: Path, part: slice) -> datasets.Dataset:
    try:
        with file.open(encoding="utf-8") as lines:
            read = convai2.dialogues(lines)
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"data file {file} is not in ParlAI's text format: {error}") from error
    return datasets.Dataset.from_list([turn for dialogue in read[part] for turn in dialogue])
