"""Tidy tables: a row a number or a few of one thing, written as CSV and read back."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tera_jax import atomic

Row = Mapping[str, Any]
"""Column -> a word, an integer, a number, or None for a number that there is not."""
TEXTS = frozenset(
    ("label", "method", "module", "side", "kind", "array", "scheme", "fixed", "value", "other")
) | {"evaluation", "split"}
"""Columns of words; all others are of numbers."""


def text(rows: Sequence[Row]) -> str:
    """A line for the columns, then one for each row; numbers are unrounded, None is empty.

    Args:
        rows: at least one, all of the same columns.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def write(file: Path, rows: Sequence[Row]) -> None:
    """Write the rows into a file."""
    atomic.write_text(file, text(rows))


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file that :func:`write` wrote."""
    with file.open(encoding="utf-8", newline="") as lines:
        return [
            {name: _value(name, of) for name, of in row.items()} for row in csv.DictReader(lines)
        ]


def _value(name: str, written: str) -> Any:
    if name in TEXTS:
        return written
    if not written:
        return None
    number = float(written)
    return int(number) if written.lstrip("-").isdigit() else number


def distinct(rows: Iterable[Row], name: str) -> list[Any]:
    """The values of a column, each once, in the order of the rows."""
    return list(dict.fromkeys(row[name] for row in rows))


def natural(name: str) -> tuple[str, int]:
    """For sorting names with numbers at their ends: d2 before d10."""
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or 0)
