"""What is left of an adapter that ended: its directory, a line of results, a row of the table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tera_jax import atomic, load_adapter
from tera_jax.fingerprint import fingerprint

from .. import export, model_card
from ..model_card import Known
from ..text_table import aligned
from ..training.run import Run
from .progress import Progress

FILE = "results.jsonl"
_DIRECTORY = "adapters"


def place(workdir: Path, name: str) -> Path:
    """The directory of an adapter."""
    return workdir / _DIRECTORY / name


def write_adapter(
    run: Run, d: Any, name: str, workdir: Path, check_frozen: bool, step: int, known: Known
) -> Path:
    """Write a finished adapter, unless it is there to the bit; another one is set aside.

    Args:
        run: whose method and configuration are the adapter's own.
        d: trained.
        name: of the adapter.
        workdir: of the run.
        check_frozen: as for :func:`tera_jax.save_adapter`.
        step: of the adapter.
        known: of the adapter, for its model card.
    """
    directory = place(workdir, name)
    if not directory.exists() or not _is(directory, run, d):
        if directory.exists():
            atomic.set_aside(directory, workdir / "earlier")
        export.export(run, d, "adapter", directory, check_frozen=check_frozen)
    model_card.write(directory, "adapter", run, d, None, step, known)
    return directory


def _is(directory: Path, run: Run, d: Any) -> bool:
    try:
        adapter, variables = load_adapter(directory, run.params)
    except (ValueError, OSError):
        return False
    return adapter == run.adapter and fingerprint(variables["d"]) == fingerprint(d)


def rows(all_: Sequence[Progress], workdir: Path) -> list[dict[str, Any]]:
    """An object for each adapter that ended, in the order of the run."""
    found = []
    for each in all_:
        if each.status not in ("finished", "failed"):
            continue
        row: dict[str, Any] = {
            "name": each.name,
            "status": each.status,
            "steps": each.taken,
            "train_loss": each.train_loss,
            "held_out_loss_before": each.before,
            "held_out_loss": each.after,
            "seconds": round(each.seconds, 3),
        }
        if each.status == "finished":
            row["adapter"] = str(place(workdir, each.name))
        else:
            row["error"] = each.reason
        found.append(row)
    return found


def write(all_: Sequence[Progress], workdir: Path) -> None:
    """Write ``results.jsonl``: a line for each adapter that ended."""
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows(all_, workdir)]
    atomic.write_text(workdir / FILE, "".join(lines))


def table(all_: Sequence[Progress]) -> str:
    """Every adapter: steps, losses in nats a target token, and its share of the time."""
    head = ("adapter", "steps", "train loss", "held-out before", "held-out after", "seconds")
    cells = [
        (
            each.name,
            f"{each.taken:,}",
            _shown(each.train_loss),
            _shown(each.before),
            _shown(each.after) if each.status != "failed" else "failed",
            f"{each.seconds:.1f}",
        )
        for each in all_
    ]
    return "\n".join(aligned([head, *cells]))


def _shown(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"
