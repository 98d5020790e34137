"""Event files for TensorBoard, in ``tensorboard/`` of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorboardX


class TensorBoard:
    """Writes each number as a scalar.

    Args:
        workdir: of the run.
        step: that was taken last; scalars of later steps are written again.
        config: of the run, which is not written.
    """

    def __init__(self, workdir: Path, step: int, config: Mapping[str, Any]) -> None:
        del step, config
        self._events = tensorboardX.SummaryWriter(str(workdir / "tensorboard"))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`train.training.loggers.Logger`."""
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is buffered."""
        self._events.close()
