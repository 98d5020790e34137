"""A study from its configuration to its results: what is there is kept, the rest is run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tera_jax.llama import load_config, load_tokenizer

from ..data import require_context
from . import identity, parts
from .jobs import workers
from .jobs.job import Job, is_complete, jobs
from .parts import Parts
from .results import Results
from .schema import Study

RESULTS = "results.jsonl"
"""In the directory of a study."""


class Outcome(NamedTuple):
    """What failed, in one line each."""

    failed: tuple[str, ...]


class Opened(NamedTuple):
    """A directory whose results are those of a study.

    Attributes:
        data: the parts of each task, by name.
        results: that are there.
        check: refuses a base by its fingerprint.
    """

    data: dict[str, Parts]
    results: Results
    check: Callable[[str], None]


def run(
    study: Study,
    output: Path,
    command: str,
    devices: Sequence[str] = (),
    retry: bool = False,
) -> Outcome:
    """Run a study in a directory that this process holds.

    Args:
        study: what to run.
        output: the directory; a study that is there goes on.
        command: as the report states it.
        devices: a process is started for each, where there are several.
        retry: run what failed before again.

    Raises:
        FileExistsError: when the directory holds results of other runs.
        FileNotFoundError: for a model or records that are not there.
        ValueError: for whatever does not fit, before the base is loaded where that is possible.
    """
    opened = enter(study, output, command, retry)
    return perform(study, opened.data, opened.results, opened.check, devices)


def enter(study: Study, output: Path, command: str, retry: bool = False) -> Opened:
    """Read the records of a study, and write into its directory what its results belong to.

    Args:
        study: to be run.
        output: the directory, which this process holds.
        command: as the report states it.
        retry: forget what failed before.

    Raises:
        FileExistsError: as :func:`run`.
        FileNotFoundError: likewise.
        ValueError: likewise.
    """
    results = Results(output / RESULTS, study.config.steps)
    if (results.runs or results.failures) and identity.read(output) is None:
        raise FileExistsError(
            f"{output} holds {RESULTS} without {identity.FILE}, so that nothing says what they "
            "are of; choose another --output"
        )
    data = read(study)
    content = identity.merged(output, identity.identity(study, data, command))
    results.repair()
    if retry:
        results.forget_failures()
    identity.write(output, content)

    def check(fingerprint: str) -> None:
        identity.write(output, identity.merged(output, {**content, "base": fingerprint}))

    return Opened(data, results, check)


def read(study: Study) -> dict[str, Parts]:
    """The parts of each task, of which the log tells.

    Raises:
        FileNotFoundError: for a model or records that are not there.
        ValueError: as :func:`train.studies.parts.read`, and for records that do not fit into the
            model's context.
    """
    tokenizer = load_tokenizer(study.config.model)
    limit = load_config(study.config.model).max_position_embeddings
    found = {}
    for task in study.config.tasks:
        config = study.data(task)
        found[task.name], lines = parts.read(task, config, tokenizer)
        print("\n".join(lines), flush=True)
        for part in found[task.name]:
            try:
                require_context(part, config, limit)
            except ValueError as error:
                raise ValueError(f"task {task.name}: {error}") from None
    return found


def perform(
    study: Study,
    data: Mapping[str, Parts],
    results: Results,
    check: Callable[[str], Any],
    devices: Sequence[str] = (),
) -> Outcome:
    """Make the runs that are not among the results.

    Args:
        study: what to run.
        data: of each task, by name.
        results: gets the new runs.
        check: refuses a base by its fingerprint.
        devices: as for :func:`run`.
    """
    every = jobs(study)
    left = []
    for job in every:
        reason = skipped(job, study, results)
        if reason:
            print(f"{job.task:<8} {job.variant:<20} skipped: {reason}", flush=True)
        else:
            left.append(job)
    if left and len(devices) > 1:
        workers.spread(study, data, left, results, check, devices[: len(left)])
    elif left:
        workers.here(study, data, left, results, check)
    found = (results.failure(*job) for job in every)
    lines = [f"{each.variant} on {each.task} ({each.error})" for each in found if each]
    for job in every:
        bad = [run.note for run in results.of(*job) if run.note and run.seed]
        lines += [f"{job.variant} on {job.task} ({note})" for note in bad]
    return Outcome(tuple(lines))


def skipped(job: Job, study: Study, results: Results) -> str:
    """Why a job is not worked on; nothing where it is."""
    failure = results.failure(*job)
    if failure is not None:
        return f"it failed before ({failure.error}); --retry tries it again"
    done = results.of(*job)
    return f"its {len(done)} runs are there" if is_complete(job, study, done) else ""
