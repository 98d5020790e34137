"""A run's log: the metrics of each step for its loggers, and a progress bar."""

import contextlib
import math
import statistics
import time
from typing import Any

import jax

from . import distributed
from .callbacks import Callbacks
from .loggers import Logger
from .steps.step import Metrics


class NotFiniteError(FloatingPointError):
    """What a step gave is not a number, or infinite.

    Attributes:
        step: counted from 1.
        values: what was found: metrics, or the name of an array.
        fed: the positions in the stream before and after it.
    """

    def __init__(self, step: int, found: str, values: dict[str, Any], fed: tuple[int, int]) -> None:
        super().__init__(f"step {step} has {found}")
        self.step, self.values, self.fed = step, values, fed


class Log:
    """Writes each step's metrics one step late, so that the device never waits for the host.

    Args:
        logger: gets the numbers, from :func:`train.training.loggers.start`; it is closed at the
            end.
        step: that was taken last.
        steps: of the run.
        every: steps between those that are written.
        told: hears of each step as its metrics come.
    """

    def __init__(
        self, logger: Logger, step: int, steps: int, every: int, told: Callbacks | None = None
    ) -> None:
        self._logger = logger
        self._bar = distributed.bar(total=steps, initial=step, unit="step", smoothing=0.1)
        self._every, self._told = every, told
        self._held: tuple[int, Metrics, int, tuple[int, int]] | None = None
        self._tokens, self._since = 0, time.perf_counter()
        self._rates: list[float] = []

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as stack:  # each of them, also where a full disk fails another
            stack.callback(self._logger.close)
            stack.callback(self._bar.close)

    def train(self, step: int, metrics: Metrics, tokens: int, fed: tuple[int, int]) -> None:
        """Take the metrics of a step just dispatched, and write those of the one before.

        Args:
            step: counted from 1.
            metrics: still on the device.
            tokens: of the step's batch, without padding.
            fed: the positions in the stream before and after the batch.

        Raises:
            NotFiniteError: by that step.
        """
        held, self._held = self._held, (step, metrics, tokens, fed)
        self._bar.update()
        if held is not None:
            self._write(*held)

    def flush(self) -> None:
        """Write what is held back; waits for the device.

        Raises:
            NotFiniteError: by that step.
        """
        if self._held is not None:
            held, self._held = self._held, None
            self._write(*held)

    def event(self, step: int, **values: float) -> None:
        """Write other values, such as the held-out loss."""
        self._logger.write(step, values)

    def message(self, text: str) -> None:
        """Print above the progress bar."""
        if distributed.is_main_process():
            self._bar.write(text)

    def pause(self) -> "Log._Pause":
        """Time spent within is left out of tokens per second."""
        return Log._Pause(self)

    def summary(self) -> str:
        """Median tokens per second, without padding and pauses, and the peak of device memory."""
        parts = []
        if self._rates:
            parts.append(f"{statistics.median(self._rates):,.0f} tokens/s")
        memory = jax.local_devices()[0].memory_stats()
        if memory and "peak_bytes_in_use" in memory:
            parts.append(f"{memory['peak_bytes_in_use'] / 2**30:.2f} GiB at most on a device")
        return ", ".join(parts)

    def _write(self, step: int, metrics: Metrics, tokens: int, fed: tuple[int, int]) -> None:
        self._tokens += tokens
        values = {name: float(x) for name, x in jax.device_get(metrics)._asdict().items()}
        if not all(map(math.isfinite, values.values())):
            found = f"loss {values['loss']} and a gradient of norm {values['grad_norm']}"
            raise NotFiniteError(step, found, values, fed)
        if self._told is not None:
            loss, grad_norm = values["loss"], values["grad_norm"]
            self._told.call("on_step", step, loss=loss, grad_norm=grad_norm)
        if step % self._every:
            return
        now = time.perf_counter()
        rate = self._tokens / (now - self._since)
        self._tokens, self._since = 0, now
        self._rates.append(rate)
        self.event(step, **values, tokens_per_second=rate)
        self._bar.set_postfix_str(f"loss {values['loss']:.3f}, {rate:,.0f} tokens/s")

    class _Pause:
        def __init__(self, log: "Log") -> None:
            self._log = log

        def __enter__(self) -> None:
            self._log.flush()
            self._start = time.perf_counter()

        def __exit__(self, *_: object) -> None:
            self._log._since += time.perf_counter() - self._start
