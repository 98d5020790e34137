"""What gets the numbers of a run: each logger of ``config.loop.loggers`` the same ones."""

import contextlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from .. import distributed
from .jsonl import JsonLines, repair
from .tensorboard import TensorBoard
from .wandb import WeightsAndBiases

__all__ = ["Logger", "repair", "require", "start"]


@runtime_checkable
class Logger(Protocol):
    """Takes numbers as they come."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of a step, by name; a step may come more than once with other names."""

    def close(self) -> None:
        """At the end of the run, also after an error."""


_KINDS: dict[str, Callable[[Path, int, Mapping[str, Any]], Logger]] = {
    "jsonl": JsonLines,
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


class _All:
    """Several loggers as one."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = loggers

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for logger in self._loggers:
            logger.write(step, values)

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # each of them, also where a full disk fails another
            for logger in reversed(self._loggers):
                stack.callback(logger.close)


def require(names: Sequence[str]) -> None:
    """Raise ``ValueError`` for a logger whose package is not installed."""
    if "wandb" in names and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            "config.loop.loggers has 'wandb', but the package wandb is not installed; pip install "
            "'tera-jax[wandb]', or leave it out"
        )


def start(names: Sequence[str], workdir: Path, step: int, config: Mapping[str, Any]) -> Logger:
    """The loggers of a run as one. Of several processes the first writes.

    Args:
        names: keys of ``config.loop.loggers``.
        workdir: of the run.
        step: that was taken last; later ones are to be taken again.
        config: of the run, as plain values.
    """
    if not distributed.is_main_process():
        return _All([])
    with contextlib.ExitStack() as stack:
        started: list[Logger] = []
        for name in names:
            started.append(_KINDS[name](workdir, step, config))
            stack.callback(started[-1].close)
        stack.pop_all()
    return _All(started)
