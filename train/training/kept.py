"""What a run wrote into its directory and reads again; what cannot be read counts as not there."""

import json
from pathlib import Path
from typing import Any

from tera_jax import json_files


def read(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no file, or none that can be read."""
    try:
        return json_files.read(file)
    except (FileNotFoundError, ValueError):
        return None


def lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a file that holds one a line, but those that :func:`line` does not take."""
    found = map(line, file.read_text(encoding="utf-8").splitlines(keepends=True))
    return [row for row in found if row is not None]


def line(text: str) -> dict[str, Any] | None:
    """The object in a line that was written to its end; None for another line."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if text.endswith("\n") and isinstance(found, dict) else None
