"""Finished runs and failed methods of a study: a line of JSON each, appended as they come."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tera_jax import atomic, json_files
from tera_jax.json_files import Key

from . import lines

_REMEDY = "take the line out, and the run is made again"


class Result(NamedTuple):
    """A run. Losses are of the response tokens, in nats a token; infinite where not finite.

    Attributes:
        variant: the method, as it is named.
        task: its data.
        learning_rate: the highest.
        seed: of the order of the data, of d and of the frozen arrays.
        validation: the loss of the part that chooses the rate.
        test: of the part that is reported.
        trained: trainable parameters.
        seconds_per_step: with the host's part, without the first steps.
        device: what it ran on.
        steps: how many it took.
        targets: the patterns of the layers.
        peak_bytes: of a device, as the compiler plans the step; 0 where that is not known.
        note: why a loss is not finite.
    """

    variant: str
    task: str
    learning_rate: float
    seed: int
    validation: float
    test: float
    trained: int
    seconds_per_step: float
    device: str
    steps: int = 0
    targets: str = ""
    peak_bytes: int = 0
    note: str = ""

    def line(self) -> str:
        """What whoever watches is told."""
        return (
            f"{self.task:<8} {self.variant:<20} {rate_text(self.learning_rate)} seed {self.seed}, "
            f"{self.steps} steps: validation {self.validation:.4f} test {self.test:.4f} "
            f"{self.seconds_per_step * 1e3:.1f} ms/step{self.note and f' ({self.note})'}"
        )


class Failure(NamedTuple):
    """A method that could not be trained on a task, and why, in one line."""

    variant: str
    task: str
    error: str

    def line(self) -> str:
        """What whoever watches is told."""
        return f"{self.task:<8} {self.variant:<20} failed: {self.error}"


def rate_text(rate: float) -> str:
    """A learning rate, such as ``3e-04``, with more digits where it has them."""
    short = f"{rate:.0e}"
    return short if float(short) == rate else f"{rate:g}"


_COUNT = Key(int, least=0)
_FAILURE = {"variant": Key(str), "task": Key(str), "error": Key(str)}
_RESULT = {
    "variant": Key(str),
    "task": Key(str),
    "learning_rate": Key(float, least=0),
    "seed": _COUNT,
    "validation": Key(float | None),
    "test": Key(float | None),
    "trained": _COUNT,
    "seconds_per_step": Key(float, least=0),
    "device": Key(str),
    "steps": Key(int | None, None),
    "targets": Key(str, ""),
    "peak_bytes": Key(int, 0, least=0),
    "note": Key(str, ""),
}


class Results:
    """The lines of a file, which need not be there yet.

    Args:
        file: the lines.
        steps: of the runs whose line does not say; the base has none.

    Raises:
        ValueError: for a line that is whole and no result.
    """

    def __init__(self, file: Path, steps: int = 0) -> None:
        self._file = file
        self.runs: list[Result] = []
        self.failures: list[Failure] = []
        for number, line in enumerate(lines.whole(file), 1):
            self._take(_row(line, f"{file} line {number}", steps))

    def repair(self) -> None:
        """Cut off a last line that was not written to its end."""
        lines.repair(self._file)

    def append(self, row: Result | Failure) -> None:
        """Add a line, which is on the disk afterwards.

        Raises:
            OSError: when the disk has no room, or fails.
        """
        lines.append(self._file, row)
        self._take(row)
        print(row.line(), flush=True)

    def forget_failures(self) -> None:
        """Take the failed methods out, to be tried again."""
        if not self.failures:
            return
        kept = [line for line in lines.whole(self._file) if "error" not in json.loads(line)]
        atomic.write_text(self._file, "".join(f"{line.decode()}\n" for line in kept))
        self.failures.clear()

    def of(self, variant: str, task: str) -> list[Result]:
        """The runs of a variant on a task."""
        return [run for run in self.runs if (run.variant, run.task) == (variant, task)]

    def failure(self, variant: str, task: str) -> Failure | None:
        """How a variant failed on a task, if it did."""
        found = [each for each in self.failures if each[:2] == (variant, task)]
        return found[-1] if found else None

    def _take(self, row: Result | Failure) -> None:
        if isinstance(row, Failure):
            self.failures.append(row)
        else:
            self.runs.append(row)


def finished(runs: Iterable[Result], steps: int) -> list[Result]:
    """The runs that took all steps."""
    return [run for run in runs if run.steps == steps]


def _row(line: bytes, where: str, steps: int) -> Result | Failure:
    content = json_files.parse(line, where, _REMEDY)
    if "error" in content:
        return Failure(**json_files.typed(where, content, _FAILURE, remedy=_REMEDY))
    values: Mapping[str, Any] = json_files.typed(where, content, _RESULT, remedy=_REMEDY)
    losses = {name: _or_infinite(values[name]) for name in ("validation", "test")}
    taken = values["steps"]
    if taken is None:
        taken = steps if values["learning_rate"] else 0
    return Result(**{**values, **losses, "steps": taken})


def _or_infinite(loss: float | None) -> float:
    return math.inf if loss is None else float(loss)
