"""Answers before and after training, side by side."""

import json
from pathlib import Path

from tera_jax import atomic

from ..training import kept
from .answers import ANSWERS

FILE = "compared.jsonl"


def write(before: Path, after: Path) -> Path | None:
    """Write what two evaluations of one task answered, a line for each question.

    A line has ``row``, ``prompt``, ``gold``, and of each evaluation its ``answer`` and ``right``,
    and ``scores`` where there are any.

    Args:
        before: the directory of the first.
        after: of the second, which gets the file.

    Returns:
        the file; None where the two have no answers of the same questions.
    """
    first, second = (_rows(directory) for directory in (before, after))
    if not first or [row["prompt"] for row in first] != [row["prompt"] for row in second]:
        return None
    lines = []
    for one, two in zip(first, second, strict=True):
        shared = {key: one[key] for key in ("row", "prompt", "gold")}
        sides = {
            name: {key: row[key] for key in ("answer", "right", "scores") if key in row}
            for name, row in (("before", one), ("after", two))
        }
        lines.append(json.dumps({**shared, **sides}, ensure_ascii=False) + "\n")
    atomic.write_text(after / FILE, "".join(lines))
    return after / FILE


def _rows(directory: Path) -> list[dict[str, object]]:
    file = directory / ANSWERS
    return kept.lines(file) if file.is_file() else []
