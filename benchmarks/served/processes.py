"""A server of random weights and the clients that send to it, each in a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.served.clients import Job, Timing

_TICKS = os.sysconf("SC_CLK_TCK")


class Clients:
    """Processes that send jobs to one server.

    Args:
        url: of the server.
        base_name: the base's ``model``.
        count: of processes.

    Attributes:
        busy: the share of a core that the busiest process took in the last run.
    """

    def __init__(self, url: str, base_name: str, count: int) -> None:
        command = [sys.executable, "-m", "benchmarks.served.client", url, base_name]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._processes: list[Any] = [subprocess.Popen(command, **pipes) for _ in range(count)]
        self.busy = 0.0

    def send(self, jobs: Sequence[Job], concurrency: int) -> tuple[list[Timing], float]:
        """All jobs, so many at a time, and the seconds that they took together.

        Raises:
            ValueError: what a request that failed says.
        """
        used = self._processes[:concurrency]
        start = time.perf_counter()
        for place, process in enumerate(used):
            most = len(range(place, concurrency, len(used)))
            given = {"jobs": jobs[place :: len(used)], "concurrency": most}
            process.stdin.write(json.dumps(given) + "\n")
            process.stdin.flush()
        found = [self._answer(process) for process in used]
        seconds = time.perf_counter() - start
        self.busy = max(each["cpu"] for each in found) / seconds
        return [Timing(*timing) for each in found for timing in each["timings"]], seconds

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.stdin.close()
            process.wait()
            process.stdout.close()

    @staticmethod
    def _answer(process: Any) -> dict[str, Any]:
        line = process.stdout.readline()
        if not line:
            raise ValueError(f"a client ended with status {process.wait()}; see what it said above")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise ValueError(found["error"])
        return found


class Server:
    """A process of :mod:`benchmarks.served.server`.

    Args:
        flags: of its command.
    """

    def __init__(self, flags: Sequence[str]) -> None:
        command = [sys.executable, "-m", "benchmarks.served.server", *flags]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def told(self, key: str) -> Any:
        """What the next line that it writes says under a key.

        Raises:
            ValueError: when the server has ended.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(line)[key]
        raise ValueError(f"the server ended with status {self._process.wait()}; see its log above")

    @property
    def cpu_seconds(self) -> float:
        """That the process has taken, of all its threads."""
        with open(f"/proc/{self._process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextlib.contextmanager
def closing(*things: Any) -> Iterator[None]:
    """Close each at the end, the last first."""
    with contextlib.ExitStack() as stack:
        for thing in things:
            stack.callback(thing.close)
        yield
