"""Who works on the jobs of a study: this process, or one for each GPU.

A process of its own is started for a GPU, which alone it sees. It loads the base once, takes a job
after the other and sends each run back; this process alone writes.
"""

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ... import command
from ..parts import Parts
from ..results import Failure, Result, Results
from ..schema import Study
from ..variants import PLAIN
from . import trainer
from .gpus import VISIBLE
from .job import Job, perform, reason

Check = Callable[[str], None]
"""Takes the fingerprint of a base, and refuses one that is not the study's."""


def here(
    study: Study, parts: Mapping[str, Parts], jobs: Sequence[Job], results: Results, check: Check
) -> None:
    """Work on the jobs in this process, one after the other.

    Raises:
        ValueError: when the base cannot be read, or is another.
    """
    base = trainer.load(study.run(PLAIN, study.config.tasks[0]).model)
    check(base.fingerprint)
    print(trainer.describe(base), flush=True)
    with trainer.in_mesh(base):
        for job in jobs:
            done = results.of(*job)
            perform(job, study, base, parts[job.task], done, results.append)


def spread(
    study: Study,
    parts: Mapping[str, Parts],
    jobs: Sequence[Job],
    results: Results,
    check: Check,
    devices: Sequence[str],
) -> None:
    """Work on the jobs in as many processes as there are devices.

    A process that dies costs its job, which becomes a failed one; another takes its place.

    Raises:
        ValueError: when the base cannot be read, or is another.
        KeyboardInterrupt: when a process was interrupted.
    """
    pool = _Pool(study, parts, jobs, results, check)
    threads = [threading.Thread(target=pool.work, args=[each], daemon=True) for each in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if pool.errors:
        raise pool.errors[0]


class _Pool:
    """What the threads share, each of which serves the process of one device."""

    def __init__(
        self,
        study: Study,
        parts: Mapping[str, Parts],
        jobs: Sequence[Job],
        results: Results,
        check: Check,
    ) -> None:
        self._study, self._parts, self._results, self._check = study, parts, results, check
        self._left: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            self._left.put(job)
        self._lock = threading.Lock()
        self.errors: list[BaseException] = []

    def work(self, device: str) -> None:
        """Start processes of a device until no job is left, or another device met an error."""
        try:
            while not self._left.empty() and not self.errors:
                with _process(device, self._study, self._parts) as (connection, process):
                    self._serve(connection, process)
        except BaseException as error:  # of the disk, or of the base
            self.errors.append(error)

    def _serve(self, connection: Any, process: Any) -> None:
        """Give a process jobs until there are none or it dies."""
        try:
            kind, value = connection.recv()
        except EOFError:
            process.join()
            raise ValueError(
                f"a process ended with status {process.exitcode} before it had the base; see above"
            ) from None
        if kind == "error":
            raise ValueError(value)
        with self._lock:
            self._check(value)
        while not self.errors:
            try:
                job = self._left.get_nowait()
            except queue.Empty:
                return
            try:
                connection.send((job, self._results.of(*job)))
                while (row := connection.recv()) is not None:
                    self._append(row)
            except (EOFError, ConnectionError):
                process.join()
                if not process.exitcode:
                    raise KeyboardInterrupt from None
                self._append(Failure(*job, f"its process ended with status {process.exitcode}"))
                return

    def _append(self, row: Result | Failure) -> None:
        with self._lock:
            self._results.append(row)


@contextmanager
def _process(device: str, study: Study, parts: Mapping[str, Parts]) -> Iterator[Any]:
    """A process that sees one device, and the connection to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_main, args=(theirs, device, study, parts), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours, process
    finally:
        ours.close()
        process.join(timeout=10)
        process.terminate()


def _main(connection: Any, device: str, study: Study, parts: Mapping[str, Parts]) -> None:
    """The process of a device."""
    os.environ[VISIBLE] = device  # read when JAX is first asked for its devices
    try:
        base = trainer.load(study.run(PLAIN, study.config.tasks[0]).model)
    except Exception as error:
        if not command.is_user_error(error):
            raise
        connection.send(("error", reason(error)))
        return
    connection.send(("base", base.fingerprint))
    with trainer.in_mesh(base):
        while True:
            try:
                job, done = connection.recv()
                perform(job, study, base, parts[job.task], done, connection.send)
                connection.send(None)
            except (EOFError, ConnectionError, KeyboardInterrupt):
                return
