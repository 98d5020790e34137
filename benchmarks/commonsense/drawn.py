"""The records of the third task, drawn once and kept in one file: training, validation, test."""

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tera_jax import atomic, json_files
from tera_jax.json_files import Key
from train.data import containers
from train.evaluation import questions
from train.tasks import choices, commonsense

TASKS = tuple(commonsense.LABELS)
"""The eight sub-tasks."""
SEED = 161
"""Of all draws."""

Record = Mapping[str, str]
"""``instruction``, ``output`` and ``answer``."""

_VERSION = 1
_FIELDS = ("instruction", "input", "output", "answer")
_RECORDS = list[dict[str, str]]
_KEYS = {
    "version": Key(int),
    "train": Key(_RECORDS),
    "validation": Key(_RECORDS),
    "tests": Key(dict[str, _RECORDS]),
}
_REMEDY = "draw the records again with --draw"


class Drawn(NamedTuple):
    """What all methods are trained and measured on.

    Attributes:
        train: one epoch of a run.
        validation: of the training file too, to choose a rate by.
        tests: of the published test file of each sub-task.
    """

    train: Sequence[Record]
    validation: Sequence[Record]
    tests: Mapping[str, Sequence[Record]]

    @property
    def identity(self) -> str:
        """16 hexadecimal digits that change with any record."""
        return hashlib.sha256(self.text()).hexdigest()[:16]

    @property
    def counts(self) -> dict[str, int]:
        """Records of each part."""
        parts = {"train": self.train, "validation": self.validation, **self.tests}
        return {name: len(part) for name, part in parts.items()}

    def text(self) -> bytes:
        """As the file has it."""
        content = {"version": _VERSION, **self._asdict()}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


class Sizes(NamedTuple):
    """Records of a draw; those of the tests are of each sub-task."""

    train: int
    validation: int
    test: int


def draw(training: Path, tests: Path, sizes: Sizes, seed: int = SEED) -> Drawn:
    """Draw records in random order.

    No instruction comes twice among training and validation records, nor is one of a drawn test
    record.

    Args:
        training: file of records.
        tests: directory of ``<sub-task>/test.json``.
        sizes: how many of each.
        seed: of the order.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for files of too few records, or a record that is no commonsense question.
    """
    if any(size < 1 for size in sizes):
        raise ValueError(f"{sizes} has a part without records; give each at least 1")
    files = questions.find(str(tests), TASKS)
    if not training.is_file():
        raise FileNotFoundError(f"--train={training} does not exist; name the training file")
    asked = {task: _take(Path(file), sizes.test, seed, ()) for task, file in files.items()}
    for task, records in asked.items():
        for record in records:
            try:
                choices.gold(record)
                choices.texts(record)
            except (KeyError, ValueError) as error:
                raise ValueError(f"{files[task]} has a record of another kind: {error}") from None
    known = (record["instruction"] for records in asked.values() for record in records)
    taken = _take(training, sizes.train + sizes.validation, seed, known)
    return Drawn(taken[: sizes.train], taken[sizes.train :], asked)


def write(file: Path, drawn: Drawn) -> None:
    """Write records, compressed; equal records make equal bytes."""
    with atomic.replacing(file) as part:
        part.write_bytes(gzip.compress(drawn.text(), mtime=0))


def read(file: Path) -> Drawn:
    """What :func:`write` wrote.

    Raises:
        FileNotFoundError: when there is no file.
        ValueError: when it is damaged, or of another version.
    """
    if not file.is_file():
        raise FileNotFoundError(f"--records={file} does not exist; {_REMEDY}")
    try:
        text = gzip.decompress(file.read_bytes())
    except (EOFError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}); {_REMEDY}") from None
    content = json_files.parse(text, str(file), _REMEDY)
    values: dict[str, Any] = json_files.typed(file, content, _KEYS, remedy=_REMEDY)
    if values.pop("version") != _VERSION:
        raise ValueError(f"{file} is not of version {_VERSION}; {_REMEDY}")
    return Drawn(**values)


def _take(file: Path, count: int, seed: int, known: Iterable[str]) -> list[Record]:
    """The first records in random order, none with a known instruction or that of another."""
    rows = [row.value for row in containers.rows(str(file))]
    seen = set(known)
    found: list[Record] = []
    for index in np.random.default_rng(seed).permutation(len(rows)):
        row = rows[index]
        if not isinstance(row, dict) or not {"instruction", "output"} <= row.keys():
            raise ValueError(f"{file} record {index} has no instruction or no output")
        if row["instruction"] in seen:
            continue
        seen.add(row["instruction"])
        found.append({name: row[name] for name in _FIELDS if row.get(name)})
        if len(found) == count:
            return found
    raise ValueError(
        f"{file} has {len(found)} records of different instructions, fewer than the {count} asked "
        "for; ask for fewer"
    )
