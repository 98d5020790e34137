"""Checkpoints of a run: {d, opt, step} and, as JSON, the data position and what must agree.

Beside each stands a file of the checksums of all its files. One without, which was cut off, and one
whose files have changed since, are set aside, and the one before takes their place.
"""

import functools
import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from tera_jax import atomic
from tera_jax.io.adapter_files import require_fingerprint

from . import distributed, kept
from .data_identity import require_identities
from .steps.step import State

_LOSS = "held_out_loss"


class Meta(NamedTuple):
    """What a checkpoint says of its run, beside the state.

    Attributes:
        position: examples fed.
        frozen_fingerprint: of the ``frozen`` collection.
        base_fingerprint: of the base's weights.
        config: of the run, as :func:`train.config.to_dict` gives it.
        data: identities of the records, by the field of the configuration that names them; empty
            in checkpoints of older versions, and where they are not to be compared.
        base_exact: fingerprint of every bit of the base; empty in checkpoints of older versions.
        progress: where each adapter stands, of a run of many (:mod:`train.many_adapters`); of a
            run with ``config.loop.patience``, the best loss and how long it has stood.
    """

    position: int
    frozen_fingerprint: str
    base_fingerprint: str
    config: dict[str, Any]
    data: dict[str, str] = {}  # noqa: RUF012 - it is never changed
    base_exact: str = ""
    progress: dict[str, Any] = {}  # noqa: RUF012 - likewise


class Checkpoints:
    """The checkpoints below ``workdir``: the last two, and the one with the least held-out loss.

    Args:
        workdir: of the run.
        log: told of each checkpoint that is set aside.
    """

    def __init__(
        self, workdir: str | os.PathLike[str], log: Callable[[str], Any] = distributed.log
    ) -> None:
        directory = Path(workdir).absolute() / "checkpoints"
        self._log = log
        self._sums = directory.with_name("checksums")
        self._damaged = directory.with_name("damaged")
        keep = managers.AnyPreservationPolicy(
            [
                managers.LatestN(2),
                managers.BestN(
                    get_metric_fn=_rank,
                    reverse=True,
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                best_fn=lambda metrics: metrics[_LOSS],  # has the metrics written to disk
                best_mode="min",
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The step of the last checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step with the least held-out loss, or the last where none was evaluated.

        A step whose loss is NaN or infinite is never chosen.
        """
        losses = {step: self.loss(step) for step in self._manager.all_steps()}
        rated = {
            step: loss for step, loss in losses.items() if loss is not None and math.isfinite(loss)
        }
        if rated:
            return min(rated, key=lambda step: (rated[step], step))
        return max((step for step, loss in losses.items() if loss is None), default=None)

    @property
    def whole(self) -> int | None:
        """The last checkpoint that is as it was written, or None; damaged ones are set aside."""
        return self._whole(lambda: self.latest)

    @property
    def best_whole(self) -> int | None:
        """:attr:`best` among those that are as they were written."""
        return self._whole(lambda: self.best)

    def _whole(self, choose: Callable[[], int | None]) -> int | None:
        while (step := choose()) is not None:
            damage = distributed.on_main_process(functools.partial(self._damage, step))
            if damage is None:
                return step
            place = distributed.on_main_process(functools.partial(self._set_aside, step))
            self._manager.reload()
            self._log(f"checkpoint {step} is not used: {damage}; it is in {place} now")
        return None

    def _damage(self, step: int) -> str | None:
        """What is wrong with the files of a step."""
        file = self._sums / f"{step}.json"
        if not file.is_file():
            return "it has no checksums, for the run ended while it was written"
        expected = kept.read(file)
        if expected is None:
            return f"{file} is damaged"
        directory = self._directory(step)
        for name, digest in expected.items():
            if not (directory / name).is_file():
                return f"its file {name} is missing"
            if _digest(directory / name) != digest:
                return f"its file {name} has changed"
        return None

    def _set_aside(self, step: int) -> str:
        place = atomic.set_aside(self._directory(step), self._damaged)
        (self._sums / f"{step}.json").unlink(missing_ok=True)
        return str(place)

    def _seal(self, step: int) -> None:
        """Write the checksums of a step, and forget those of steps that are gone."""
        self._sums.mkdir(exist_ok=True)
        directory = self._directory(step)
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        sums = {str(path.relative_to(directory)): _digest(path) for path in files}
        atomic.sync_tree(directory)
        atomic.write_json(self._sums / f"{step}.json", sums)
        kept = {f"{step}.json" for step in self._manager.all_steps()}
        for file in self._sums.iterdir():
            if file.name not in kept:
                file.unlink()

    def _directory(self, step: int) -> Path:
        return Path(self._manager.directory) / str(step)

    def identity(self, step: int) -> str:
        """16 hexadecimal digits that change with any byte of a step's files."""
        return _digest(self._sums / f"{step}.json")[:16]

    def loss(self, step: int) -> float | None:
        """The held-out loss that was saved with a step."""
        metrics = self._manager.metrics(step)
        return None if metrics is None else metrics.get(_LOSS)

    def save(self, state: State, meta: Meta, held_out_loss: float | None) -> Path:
        """Write the state of a step; a step that is there already is left as it is.

        Returns:
            The step's directory.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return self._directory(step)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta._asdict())
            ),
            metrics=None if held_out_loss is None else {_LOSS: held_out_loss},
            force=True,
        )
        distributed.on_main_process(lambda: self._seal(step))
        return self._directory(step)

    def restore(self, step: int, like: State, expected: Meta) -> tuple[State, Meta]:
        """The state of a step, laid out like ``like``.

        Raises:
            ValueError: when the frozen network, the base or the records are not those it was made
                with.
        """
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like)),
                meta=ocp.args.JsonRestore(),
            ),
        )
        meta = Meta(**restored.meta)
        where = f"checkpoint {step} of {self._manager.directory}"
        require_fingerprint(expected.frozen_fingerprint, meta.frozen_fingerprint, where)
        if meta.base_fingerprint != expected.base_fingerprint:
            raise ValueError(
                f"{where} was made with a base of fingerprint {meta.base_fingerprint}, but these "
                f"weights have {expected.base_fingerprint}; load that base again"
            )
        if meta.base_exact and expected.base_exact not in ("", meta.base_exact):
            raise ValueError(
                f"{where} was made with a base of exact fingerprint {meta.base_exact}, but these "
                f"weights have {expected.base_exact}, in bits below bfloat16's; load that base "
                "again"
            )
        require_identities(meta.data, expected.data, where)
        return restored.state, meta


def last_sealed(workdir: str | os.PathLike[str]) -> int | None:
    """The last checkpoint of a run that was written to its end, without a look at its files."""
    steps = [int(file.stem) for file in (Path(workdir) / "checksums").glob("*.json")]
    return max(steps, default=None)


def _rank(metrics: Any) -> float:
    """What the best checkpoint has least of: the held-out loss, where it is a number."""
    loss = metrics[_LOSS]
    return loss if math.isfinite(loss) else math.inf


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
