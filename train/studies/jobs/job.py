"""One method on one task: the search of its learning rate, then the other seeds at that rate."""

import traceback
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ... import command
from ..parts import Parts
from ..results import Failure, Result
from ..schema import FIRST_SEED, Study
from ..variants import BASE
from . import rates
from .trainer import Base, Trainer

_LONGEST = 300
"""Characters of a reason."""

Emit = Callable[[Result | Failure], None]
"""Takes a row as it comes."""


class Job(NamedTuple):
    """A variant on a task, by their names."""

    variant: str
    task: str


class _MissingRunError(Exception):
    """A run that the search asks for is not there."""


class _FailedRunError(Exception):
    """A run ended with an error; its text is the reason."""


def jobs(study: Study) -> list[Job]:
    """All jobs of a study, the base of each task first."""
    names = [BASE, *(variant.name for variant in study.variants)]
    return [Job(name, task.name) for task in study.config.tasks for name in names]


def is_complete(job: Job, study: Study, done: Iterable[Result]) -> bool:
    """Whether all runs of a job are there."""

    def missing(rate: float, seed: int, steps: int) -> Result:
        raise _MissingRunError

    try:
        _follow(job, study, _remembering(done, missing))
    except (_MissingRunError, ValueError):  # or there is no good rate, which is yet to be told
        return False
    return True


def perform(
    job: Job, study: Study, base: Base, parts: Parts, done: Iterable[Result], emit: Emit
) -> None:
    """Make the runs of a job that are not there yet.

    A method that fails is a row too: the others of a study go on.

    Args:
        job: of the study.
        study: all of it.
        base: loaded.
        parts: of the job's task.
        done: its runs that are there.
        emit: gets each new run as it ends, and the failure. Its own errors pass.
    """
    trainer: Trainer | None = None

    def train(rate: float, seed: int, steps: int) -> Result:
        nonlocal trainer
        try:
            if trainer is None:
                config = study.run(study.variant(job.variant), study.task(job.task))
                trainer = Trainer(base, config, parts, *job)
            return trainer(rate, seed, steps) if steps else trainer.untrained()
        except Exception as error:
            if not command.is_user_error(error) and not _is_out_of_memory(error):
                traceback.print_exc()
            raise _FailedRunError(reason(error)) from None

    def kept(rate: float, seed: int, steps: int) -> Result:
        found = train(rate, seed, steps)
        emit(found)
        return found

    try:
        _follow(job, study, _remembering(done, kept))
    except (_FailedRunError, ValueError) as error:
        emit(Failure(*job, str(error)))


def reason(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or [""]
    text = lines[0] if command.is_user_error(error) else f"{type(error).__name__}: {lines[0]}"
    if _is_out_of_memory(error):
        text = f"out of memory: {lines[0]}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


_Run = Callable[[float, int, int], Result]


def _remembering(done: Iterable[Result], make: _Run) -> _Run:
    """The run of a rate, a seed and steps: one that is there, or else one that is made."""
    known = {(run.learning_rate, run.seed, run.steps): run for run in done}

    def run(rate: float, seed: int, steps: int) -> Result:
        if (rate, seed, steps) not in known:
            known[rate, seed, steps] = make(rate, seed, steps)
        return known[rate, seed, steps]

    return run


def _follow(job: Job, study: Study, run: _Run) -> None:
    """Ask for the runs of a job, in order.

    Raises:
        ValueError: when no rate is good.
    """
    config = study.config
    if job.variant == BASE:
        run(0.0, FIRST_SEED, 0)
        return
    start = study.run(study.variant(job.variant), study.task(job.task)).optim.learning_rate

    def loss(rate: float, steps: int = config.steps) -> float:
        return run(rate, FIRST_SEED, steps).validation

    if config.rates == "auto":
        rate = rates.halve(loss, start, config.short, config.steps).rate
    elif config.rates == "climb":
        rate = rates.climb(loss, start)
    else:
        rate = rates.best_of(loss, config.rates)
    for seed in range(FIRST_SEED + 1, FIRST_SEED + config.seeds):
        run(rate, seed, config.steps)
