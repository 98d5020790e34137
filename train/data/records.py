"""Files of records: instructions with outputs, or dialogues."""

import re
from pathlib import Path

import datasets

from .. import tasks
from ..config import DataConfig
from ..tasks import convai2

_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".txt")
_SLICED = re.compile(r"(.*)\[(\d*):(\d*)\]")
_HUB = "hub:"


def load(path: str, prompt: str = "hira", answered: bool = True) -> datasets.Dataset:
    """Read the records of a file.

    Args:
        path: a .json file that holds a list, a .jsonl file, either plain or gzipped, or dialogues
            in ParlAI's text format (.txt), which become a record for each answer. A slice of it
            takes part of the records, or of the dialogues: ``dialogues.txt[:800]``. A data set of
            the hub is ``hub:owner/name`` or ``hub:owner/name:split``; the split is train if unsaid.
        prompt: the style of prompt they are for, which says what fields they need.
        answered: refuse records without an ``output``.

    Raises:
        FileNotFoundError: when there is no such file, or data set of the hub.
        ValueError: when it is no such file, has no records, or a record lacks a field.
    """
    sliced = _SLICED.fullmatch(path)
    whole, start, stop = sliced.groups() if sliced else (path, "", "")
    part = slice(int(start) if start else None, int(stop) if stop else None)
    records = _hub(whole, part) if whole.startswith(_HUB) else _file(Path(whole), part)
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


def _file(file: Path, part: slice) -> datasets.Dataset:
    if not file.is_file():
        raise FileNotFoundError(f"data file {file} does not exist; check config.data.path")
    if not file.name.endswith(_SUFFIXES):
        raise ValueError(f"data file {file} ends in none of {_SUFFIXES}")
    return _dialogues(file, part) if file.suffix == ".txt" else _json(file, part)


def _hub(path: str, part: slice) -> datasets.Dataset:
    name, _, split = path.removeprefix(_HUB).partition(":")
    datasets.disable_progress_bars()
    try:
        records = datasets.load_dataset(name, split=split or "train")
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"data set {path} could not be had from the hub: {error}. Check its name and split, or "
            "download it and give the file"
        ) from error
    return _part(records, part)


def _json(file: Path, part: slice) -> datasets.Dataset:
    datasets.disable_progress_bars()
    try:
        records = datasets.load_dataset("json", data_files=str(file), split="train")
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        cause = error.__cause__ or error
        raise ValueError(f"data file {file} holds no list of JSON records: {cause}") from error
    return _part(records, part)


def _part(records: datasets.Dataset, part: slice) -> datasets.Dataset:
    return records.select(list(range(*part.indices(len(records)))))


def _dialogues(file: Path, part: slice) -> datasets.Dataset:
    try:
        with file.open(encoding="utf-8") as lines:
            read = convai2.dialogues(lines)
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"data file {file} is not in ParlAI's text format: {error}") from error
    return datasets.Dataset.from_list([turn for dialogue in read[part] for turn in dialogue])
