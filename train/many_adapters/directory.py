"""What a directory belongs to: one run of many adapters, which ``many.json`` says."""

from pathlib import Path
from typing import Any

from tera_jax import atomic, disk, json_files

from ..config import Config, differences, parse, to_json
from ..training import lock
from ..training.workdir import what_counts

FILE = "many.json"
VERSION = 1
"""Of the file's keys, and of what checkpoints hold."""


def content(config: Config, adapters: dict[str, dict[str, Any]], active: int) -> dict[str, Any]:
    """What the file holds.

    Args:
        config: that all adapters inherit.
        adapters: the fields of each by its name.
        active: adapters in one step.
    """
    tree = {"config": to_json(config), "adapters": adapters, "active": active}
    return {"version": VERSION, **tree}


def require(workdir: Path, given: dict[str, Any]) -> None:
    """Check that a directory is empty, absent, or holds a run that trains as this one.

    Args:
        workdir: the directory.
        given: from :func:`content`.

    Raises:
        FileExistsError: when it holds something else, or a run under other values, which the error
            lists.
        ValueError: when its file is damaged, of another version, or has a field that this one
            refuses.
    """
    file = workdir / FILE
    if not file.is_file():
        names = [path for path in _entries(workdir) if path.name != lock.FILE]
        if names:
            disk.require_empty(workdir)
        return
    saved = json_files.read(file, limit=2**28, remedy="choose another --workdir")
    if saved.get("version") != VERSION:
        raise ValueError(
            f"{workdir} holds a run of version {saved.get('version')!r} of this program's files, "
            f"and this is version {VERSION}; choose another --workdir"
        )
    rows = differences(_counting(saved), _counting(given), "run")
    if not rows and [*saved["adapters"]] != [*given["adapters"]]:
        rows = ["run.adapters: they stand in another order"]
    if rows:
        shown = "; ".join(row.replace("run.config.", "config.") for row in rows[:5])
        more = f"; and {len(rows) - 5} more" if len(rows) > 5 else ""
        raise FileExistsError(
            f"{workdir} holds a run that was trained under other values: {shown}{more}. Give "
            "these again, or choose another --workdir"
        )


def _entries(workdir: Path) -> list[Path]:
    """What is in the directory, but for temporary names."""
    if not workdir.is_dir():
        return [workdir] if workdir.exists() else []
    return [path for path in workdir.iterdir() if not atomic.is_part(path)]


def _counting(tree: dict[str, Any]) -> dict[str, Any]:
    """What trains the adapters; fields that are newer than a file have their defaults."""
    return {**tree, "config": what_counts(to_json(parse(tree["config"])), False)}


def write(workdir: Path, given: dict[str, Any]) -> None:
    """Write the file, unless it is there and the same."""
    file = workdir / FILE
    if not file.is_file() or json_files.read(file, limit=2**28) != given:
        atomic.write_json(file, given)
