"""The log of a run of many adapters: ``metrics.jsonl`` and a progress bar."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from ..training import distributed
from ..training.loggers import repair


class Log:
    """Lines of steps after ``step``, which are to be taken again, are taken out of the file first.

    Args:
        workdir: of the run.
        step: that was taken last.
        taken: steps of all adapters that are behind the run.
        total: steps of all adapters.
        every: steps of the run between lines.
    """

    def __init__(self, workdir: Path, step: int, taken: int, total: int, every: int) -> None:
        path = workdir / "metrics.jsonl"
        repair(path, step)
        self._file: TextIO = path.open("a")
        self._bar = distributed.bar(total=total, initial=taken, unit="step", smoothing=0.1)
        self._every = every
        self._tokens, self._since = 0, time.perf_counter()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._file.close()

    def train(self, step: int, losses: Mapping[str, float], tokens: int) -> None:
        """Take the losses of a step.

        Args:
            step: of the run, counted from 1.
            losses: in nats a target token, by the name of the adapter.
            tokens: of the step's batch, without padding.
        """
        self._bar.update(len(losses))
        self._tokens += tokens
        if step % self._every or not losses:
            return
        now = time.perf_counter()
        rate = self._tokens / (now - self._since)
        self._tokens, self._since = 0, now
        mean = sum(losses.values()) / len(losses)
        row = {"step": step, "loss": mean, "tokens_per_second": rate, "adapters": dict(losses)}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        self._bar.set_postfix_str(f"loss {mean:.3f}, {rate:,.0f} tokens/s")

    def message(self, text: str) -> None:
        """Print above the progress bar."""
        self._bar.write(text)
