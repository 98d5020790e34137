"""A run with the numbers of its updates, its losses and the values of its d."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tera_jax import trees
from tera_jax.adapters.base import Adapter
from tera_jax.analysis.updates import updates
from tera_jax.llama import load_tokenizer

from ..config.limits import require_at_least
from ..tasks import own
from ..training import kept
from ..training import run as runs
from ..training.loggers.jsonl import FILE
from .measures import Bases, Measured, measure
from .members import Member
from .table import natural

BEFORE, AFTER = "evaluation-base", "evaluation"


class Analysed(NamedTuple):
    """What is known of a run.

    Attributes:
        member: the run.
        step: of the checkpoint, the best one by the held-out loss.
        trained: trainable parameters.
        nll: the held-out loss of that checkpoint, in nats a token; None where none was taken.
        last_nll: the held-out loss at the end of the training, likewise.
        kernels: the numbers of each, in the order of paths and layers.
        d: the trained values by the name of their array, all kernels together.
        elsewhere: NLL of a test set before and after the training, by its name.
        rank: of updates as a part of the full one, where it is known though no kernel is measured.
    """

    member: Member
    step: int
    trained: int
    nll: float | None
    last_nll: float | None
    kernels: list[Measured]
    d: dict[str, np.ndarray]
    elsewhere: dict[str, tuple[float, float]]
    rank: float | None = None


def analyse(
    members: Sequence[Member], told: Callable[[str], Any] = print, every: int = 1
) -> list[Analysed]:
    """The numbers of every run. A base is loaded once for all runs that have it.

    Args:
        members: from :func:`train.analysis.members.read`.
        told: gets a line for each run when it begins.
        every: the kernels of one layer of so many are measured, from the first on.

    Raises:
        FileNotFoundError: when a base or a checkpoint is missing.
        ValueError: when ``every`` is below 1, a run does not fit its base, or an update has NaN or
            infinity.
    """
    require_at_least(1, every=every)
    found: dict[Path, Analysed] = {}
    for key in sorted({member.base for member in members}, key=str):
        first: Any = None
        tokenizer: Any = None
        bases = Bases()
        for member in members:
            if member.base != key:
                continue
            told(f"{member.path}: {member.label} on {member.task}, seed {member.seed}")
            tokenizer = tokenizer or load_tokenizer(member.config.model.path)
            run = runs.build(member.config, member.path, tokenizer, base=first)
            first = run.model, run.params
            with jax.set_mesh(run.mesh):
                found[member.path] = _analysed(member, run, bases, every)
    return [found[member.path] for member in members]


def _analysed(member: Member, run: runs.Run, bases: Bases, every: int) -> Analysed:
    step, d = runs.restore_best(run, member.path)
    stacks = {layer.path: layer.stack for layer in run.adapter.layers}
    kernels = [
        measure(update, _number(update.place, stacks[update.layer.path]), bases)
        for update in updates(run.adapter, run.variables(d), lambda layer: layer % every == 0)
    ]
    losses = _losses(member.path)
    return Analysed(
        member=member,
        step=step,
        trained=sum(leaf.size for leaf in jax.tree.leaves(d)),
        nll=losses.get(step),
        last_nll=losses[max(losses)] if losses else None,
        kernels=kernels,
        d=trained_values(run.adapter, d),
        elsewhere=_elsewhere(member.path),
    )


def _number(index: tuple[int, ...], stack: tuple[int, ...]) -> int:
    return int(np.ravel_multi_index(index, stack)) if stack else 0


def trained_values(adapter: Adapter, d: Any) -> dict[str, np.ndarray]:
    """The values of d by array, over all kernels, float64.

    Vectors in a list are d1, d2 and so on, as the TeRA paper counts modes.

    Args:
        adapter: whose d it is.
        d: the collection.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for path, leaf in trees.named(d).items():
        _, _, name = path.rpartition(f"{adapter.name}/")
        name = f"d{int(name) + 1}" if name.isdigit() else name
        parts.setdefault(name, []).append(np.asarray(leaf, np.float64).ravel())
    return {name: np.concatenate(parts[name]) for name in sorted(parts, key=natural)}


def _losses(path: Path) -> dict[int, float]:
    """The held-out losses by step."""
    file = path / FILE
    rows = kept.lines(file) if file.is_file() else []
    return {row["step"]: row["held_out_loss"] for row in rows if "held_out_loss" in row}


def _elsewhere(path: Path) -> dict[str, tuple[float, float]]:
    """The test sets whose NLL stands in both evaluations, that of the base and that of the run."""
    found: dict[str, tuple[float, float]] = {}
    for file in sorted((path / AFTER).glob("*/summary.json")):
        both = [_nll(file), _nll(path / BEFORE / file.parent.name / file.name)]
        if both[0] is not None and both[1] is not None:
            found[file.parent.name] = both[1], both[0]
    return found


def _nll(file: Path) -> float | None:
    metrics = (kept.read(file) or {}).get("metrics")
    loss = metrics.get(own.LOSS) if isinstance(metrics, dict) else None
    return float(loss) if isinstance(loss, float) else None
