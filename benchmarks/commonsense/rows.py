"""The finished runs on the third task: a line of JSON each."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tera_jax import json_files
from tera_jax.json_files import Key
from train.studies import lines
from train.studies.results import Result, rate_text

_REMEDY = "take the line out, and the run is made again"
_BY_TASK = ("nll", "accuracy", "by_length", "text_nll")


class Row(NamedTuple):
    """A run and its scores; losses are in nats a token, and infinite where not finite.

    Attributes:
        variant: the method, as it is named.
        learning_rate: the highest; 0 of the base.
        seed: of the order of the data, of d and of the frozen arrays.
        steps: that it took; 0 of the base.
        trained: trainable parameters.
        validation: the loss of the validation records.
        nll: of each sub-task, as :class:`.scores.Scores` has them.
        accuracy: likewise.
        by_length: likewise.
        text_nll: likewise.
        targets: the patterns of the layers.
        seconds_per_step: with the host's part, without the first steps.
        seconds_of_scores: for all scores, with compilation.
        counts: records of each part.
        records: the identity of the records.
        base: the fingerprint of the base.
        device: what it ran on.
        programs: versions of what computes.
        note: why a loss is not finite.
    """

    variant: str
    learning_rate: float
    seed: int
    steps: int
    trained: int
    validation: float
    nll: Mapping[str, float]
    accuracy: Mapping[str, float]
    by_length: Mapping[str, float]
    text_nll: Mapping[str, float]
    targets: str
    seconds_per_step: float
    seconds_of_scores: float
    counts: Mapping[str, int]
    records: str
    base: str
    device: str
    programs: Mapping[str, str]
    note: str = ""

    def line(self) -> str:
        """What whoever watches is told."""
        means = [math.fsum(of.values()) / len(of) for of in (self.nll, self.accuracy)]
        return (
            f"{self.variant:<20} {rate_text(self.learning_rate)} seed {self.seed}, {self.steps} "
            f"steps: validation {self.validation:.4f} test {means[0]:.4f} accuracy {means[1]:.4f} "
            f"{self.seconds_per_step * 1e3:.1f} ms/step, scores {self.seconds_of_scores:.1f} s"
            f"{self.note and f' ({self.note})'}"
        )

    def by_task(self) -> list[Result]:
        """A result of the run for each sub-task."""
        return [
            Result(
                self.variant,
                task,
                self.learning_rate,
                self.seed,
                self.validation,
                loss,
                self.trained,
                self.seconds_per_step,
                self.device,
                self.steps,
                self.targets,
                note=self.note,
            )
            for task, loss in self.nll.items()
        ]


_COUNT = Key(int, least=0)
_LOSSES = Key(dict[str, float | None])
_SHARES = Key(dict[str, float], least=0)
_KEYS = {
    "variant": Key(str),
    "learning_rate": Key(float, least=0),
    "seed": _COUNT,
    "steps": _COUNT,
    "trained": _COUNT,
    "validation": Key(float | None),
    "nll": _LOSSES,
    "accuracy": _SHARES,
    "by_length": _SHARES,
    "text_nll": _LOSSES,
    "targets": Key(str),
    "seconds_per_step": Key(float, least=0),
    "seconds_of_scores": Key(float, least=0),
    "counts": Key(dict[str, int]),
    "records": Key(str),
    "base": Key(str),
    "device": Key(str),
    "programs": Key(dict[str, str]),
    "note": Key(str, ""),
}


def read(file: Path) -> list[Row]:
    """The runs of a file, which need not be there yet.

    Raises:
        ValueError: for a line that is whole and no run.
    """
    found = []
    for number, line in enumerate(lines.whole(file), 1):
        where = f"{file} line {number}"
        content = json_files.parse(line, where, _REMEDY)
        values = json_files.typed(where, content, _KEYS, remedy=_REMEDY)
        for name in ("validation", "nll", "text_nll"):
            values[name] = _infinite(values[name])
        if any(values[name].keys() != values["nll"].keys() for name in _BY_TASK):
            raise ValueError(f"{where} has scores of different sub-tasks; {_REMEDY}")
        found.append(Row(**values))
    return found


def append(file: Path, row: Row) -> None:
    """Add a run, which is on the disk afterwards.

    Raises:
        OSError: when the disk has no room, or fails.
    """
    lines.append(file, row)
    print(row.line(), flush=True)


def require_same(file: Path, found: Sequence[Row], **fields: Any) -> None:
    """Check that runs are of the same records, base and steps.

    Raises:
        ValueError: for the first that is not, with both values.
    """
    for row in found:
        for name, value in fields.items():
            theirs = getattr(row, name)
            if theirs != value and not (name == "steps" and theirs == 0):
                raise ValueError(
                    f"{file} has a run of {row.variant} with {name} {theirs}, not {value}; name "
                    "another --output"
                )


def _infinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _infinite(each) for name, each in value.items()}
    return math.inf if value is None else float(value)
