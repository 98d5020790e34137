"""Weights & Biases. Its own environment variables say where to: ``WANDB_MODE``, ``WANDB_PROJECT``.

The run's id is kept in ``wandb.json`` of its directory, so that a resumed run goes on under it.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tera_jax import atomic

from .. import kept

_FILE = "wandb.json"


class WeightsAndBiases:
    """Logs each number under its step.

    Args:
        workdir: of the run; what is written locally is below ``wandb/`` there.
        step: that was taken last. W&B takes no step twice: of one that is taken again, it keeps the
            first numbers.
        config: of the run.
    """

    def __init__(self, workdir: Path, step: int, config: Mapping[str, Any]) -> None:
        import wandb  # an extra

        del step
        file = workdir / _FILE
        found = (kept.read(file) or {}).get("id")
        id_ = found if isinstance(found, str) else secrets.token_hex(8)
        if id_ != found:
            atomic.write_json(file, {"id": id_})
        self._run = wandb.init(
            dir=str(workdir), id=id_, resume="allow", name=workdir.name, config=dict(config)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`train.training.loggers.Logger`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Wait for what is not sent yet."""
        self._run.finish()
