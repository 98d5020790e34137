"""Why training ends early, and what is left behind: nothing that was saved is lost."""

import dataclasses
import errno
import math
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tera_jax import atomic

from ..data import DataIterator
from . import distributed
from .checkpoint import last_sealed
from .metrics import NotFiniteError

_AGAIN = "the same command goes on from here"
_FULL = {code: os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}
_IO_STATUS = 74
"""EX_IOERR of sysexits.h."""


@dataclasses.dataclass
class Patience:
    """When held-out losses no longer fall: the same decision at the same step, however resumed.

    Attributes:
        limit: evaluations in a row that may bring no better loss; None sets no limit.
        min_delta: nats a token by which a better loss is below the best one before.
        best: that loss; infinite before the first.
        waited: evaluations since it was taken.
    """

    limit: int | None
    min_delta: float
    best: float = math.inf
    waited: int = 0

    @property
    def is_over(self) -> bool:
        """Whether training ends here."""
        return self.limit is not None and self.waited >= self.limit

    def add(self, loss: float) -> None:
        """Take the held-out loss of an evaluation."""
        if loss < self.best - self.min_delta:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint; nothing before the first evaluation, or without a limit."""
        if self.limit is None or math.isinf(self.best):
            return {}
        return {"best": self.best, "waited": self.waited}

    def go_on(self, saved: Mapping[str, Any]) -> None:
        """Where a checkpoint left off; one without such values starts to count there."""
        self.best, self.waited = saved.get("best", math.inf), saved.get("waited", 0)


class Stopped(SystemExit):
    """The process is to end with a status, and ``message`` says why and what to do."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status)
        self.message = message


def interrupted(number: int, step: int, requeue_status: int) -> Stopped:
    """A signal arrived and the state was saved.

    The status after Ctrl-C is 128 + the signal's number, else the one that a scheduler is told to
    start the run again on.
    """
    name = signal.Signals(number).name
    status = 128 + number if number == signal.SIGINT else requeue_status
    return Stopped(status, f"{name} at step {step}: the state is saved; {_AGAIN}")


def time_is_up(hours: float, step: int, requeue_status: int) -> Stopped:
    """The run's hours are over and the state was saved."""
    text = f"{hours} hours are over at step {step}: the state is saved; {_AGAIN}"
    return Stopped(requeue_status, text)


@contextmanager
def told() -> Iterator[None]:
    """Log what a :class:`Stopped` says before it ends the process."""
    try:
        yield
    except Stopped as stopped:
        try:
            distributed.log(stopped.message)
        except OSError:  # it lies on the full disk too; at its end Python flushes what is left
            sys.stdout = None
        raise


@contextmanager
def disk_full(workdir: Path) -> Iterator[None]:
    """Turn an error for want of space, of whatever kind, into :class:`Stopped`.

    Args:
        workdir: of the run, there or not.
    """
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        last = last_sealed(workdir)
        kept = "there is no checkpoint yet" if last is None else f"checkpoint {last} is whole"
        remedy = "make room, and the same command goes on"
        raise Stopped(_IO_STATUS, f"the disk is full ({error}): {kept}; {remedy}") from error


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(text in str(error) for text in _FULL.values()):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def not_finite(workdir: Path, stream: DataIterator) -> Iterator[None]:
    """Write down what a step that gave no numbers was made of, and say where.

    ``not_finite-<step>.json`` has its metrics (loss, norms of the gradient and of d before it), or
    the held-out loss or the array that is not finite. It has the indices of the step's examples
    among the training records too. A number that JSON has not is a text there.
    """
    try:
        yield
    except NotFiniteError as error:
        path = workdir / f"not_finite-{error.step}.json"
        values = {name: _as_json(value) for name, value in error.values.items()}
        found = {"step": error.step, **values, "examples": stream.fed(*error.fed)}
        if distributed.is_main_process():
            atomic.write_json(path, found)
        raise FloatingPointError(
            f"{error}; its examples are in {path}. No state of it was saved. Lower "
            "config.optim.learning_rate, or train in float32"
        ) from error


def _as_json(value: str | float) -> str | float:
    return value if isinstance(value, str) or math.isfinite(value) else str(value)
