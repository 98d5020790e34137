"""``metrics.jsonl``: an object a line, which resumption and reports read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tera_jax import atomic

from .. import kept

FILE = "metrics.jsonl"


class JsonLines:
    """Writes each step as a line, at once.

    Args:
        workdir: of the run.
        step: that was taken last. Lines of later ones, which are to be taken again, and a last line
            that was cut off are taken out of the file.
        config: of the run, which is not written.
    """

    def __init__(self, workdir: Path, step: int, config: Mapping[str, Any]) -> None:
        del config
        repair(workdir / FILE, step)
        self._file: TextIO = (workdir / FILE).open("a")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`train.training.loggers.Logger`.

        Raises:
            ValueError: for NaN and infinity, which JSON has not.
        """
        self._file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def repair(path: Path, last: int) -> None:
    """Keep the whole lines of steps up to ``last``, of those of one kind and step the last."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    kept = {}
    for line in text.splitlines(keepends=True):
        found = _parsed(line)
        if found is not None and found["step"] <= last:
            kept[found["step"], "held_out_loss" in found] = line
    repaired = "".join(kept.values())
    if repaired != text:
        atomic.write_text(path, repaired)


def _parsed(line: str) -> dict[str, Any] | None:
    """A whole line with a step; None for another."""
    found = kept.line(line)
    return found if found is not None and type(found.get("step")) is int else None
