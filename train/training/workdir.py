"""What a directory belongs to: one run, whose configuration it holds as ``config.json``."""

import os
from pathlib import Path
from typing import Any

from tera_jax import atomic, json_files
from tera_jax.disk import require_empty

from .. import command
from ..config import Config, differences, parse, to_json
from . import lock
from .checkpoint import last_sealed

VERSION = 2
"""Of the file's keys and of what checkpoints hold."""

RECORDS = "records.jsonl"
"""Records that were given as values, not as a file: :mod:`train.finetune` writes them."""
_CONFIG = "config.json"
_FREE_SECTIONS = ("evaluate", "decoding", "mesh", "export")
_FREE = {
    "data": ("allow_cut_responses", "streaming"),
    "model": ("unroll", "kept_layers"),
    "loop": (
        "max_hours",
        "requeue_status",
        "eval_every",
        "checkpoint_every",
        "log_every",
        "loggers",
        "min_delta",
        "patience",
    ),
}
"""Fields that may change between starts: what the run has trained so far is the same without."""
_LENGTH = ("steps", "epochs")


def require_workdir(workdir: str | os.PathLike[str], config: Config) -> None:
    """Check that ``workdir`` is empty, absent, or holds a run that trains like this one.

    What is measured, logged, saved and exported may change, and so may the mesh, the hours and
    unrolled layers, with which the run is the same to rounding. A run under a constant schedule may
    be made longer.

    Raises:
        FileExistsError: when the directory holds something else, or a run that was trained under
            other values; the error lists them.
        ValueError: as :func:`saved_config`, and for fewer steps than the run has taken.
    """
    directory = Path(workdir)
    if not _is_claimed(directory):
        _require_unused(directory)
        return
    saved = to_json(_parsed(directory, saved_config(directory)))
    given = to_json(config)
    grows = {saved["optim"]["schedule"], given["optim"]["schedule"]} == {"constant"}
    rows = differences(what_counts(saved, grows), what_counts(given, grows))
    if rows:
        raise FileExistsError(
            f"{workdir} holds a run that was trained under other values: {'; '.join(rows)}. Give "
            f"these again, or choose another --workdir{_to_go_on(workdir, rows, saved)}"
        )
    done, steps = last_sealed(directory), config.loop.steps
    if done is not None and steps is not None and steps < done:
        raise ValueError(
            f"config.loop.steps is {steps}, but the run in {workdir} has taken {done}; give at "
            "least as many"
        )


def _to_go_on(workdir: str | os.PathLike[str], rows: list[str], saved: dict[str, Any]) -> str:
    """What to do where the decay has the steps of a run locked."""
    locked = tuple(f"config.loop.{name}:" for name in _LENGTH)
    if not any(row.startswith(locked) for row in rows):
        return ""
    return (
        ". The rates of past steps follow from the number of all (config.optim.schedule "
        f"{saved['optim']['schedule']!r}): "
        f"to train on, start a new run from what {command.named('export')} --workdir={workdir} "
        "--format=hf --output=MERGED writes, with --config.model.path=MERGED"
    )


def _is_claimed(directory: Path) -> bool:
    """Whether there is a configuration; versions that wrote it in place left an empty one."""
    file = directory / _CONFIG
    return file.is_file() and file.stat().st_size > 0


def _require_unused(directory: Path) -> None:
    """:func:`require_empty`, but for what a start leaves that did not come to its configuration."""
    if directory.is_dir():
        names = {path.name for path in directory.iterdir() if not atomic.is_part(path)}
        if names <= {lock.FILE, _CONFIG, RECORDS}:
            return
    require_empty(directory)


def init_workdir(workdir: str | os.PathLike[str], config: Config) -> None:
    """Write the configuration into ``workdir``, unless it is there.

    Raises:
        FileExistsError: as :func:`require_workdir`.
        ValueError: likewise.
    """
    require_workdir(workdir, config)
    directory = Path(workdir)
    if not _is_claimed(directory) or saved_config(directory) != to_json(config):
        directory.mkdir(parents=True, exist_ok=True)
        atomic.write_json(directory / _CONFIG, {"version": VERSION, **to_json(config)})


def saved_config(workdir: str | os.PathLike[str], mesh: str | None = None) -> dict[str, Any]:
    """The configuration of the run in ``workdir``, for :func:`train.config.parse`.

    Args:
        workdir: of the run.
        mesh: another than the run's, as ``data=2,fsdp=4``.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is damaged, or of another version.
    """
    path = Path(workdir) / _CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name the --workdir of a run")
    saved = json_files.read(path, remedy="choose another --workdir")
    version = saved.pop("version", 1)
    if version != VERSION:
        raise ValueError(
            f"{workdir} holds a run of version {version} of this program's files, and this is "
            f"version {VERSION}: finish and export it with the program that began it, or train "
            "again in another --workdir"
        )
    return saved if mesh is None else {**saved, "mesh": mesh}


def _parsed(directory: Path, saved: dict[str, Any]) -> Config:
    """The saved configuration, with the defaults of fields that are newer than it."""
    try:
        return parse(saved)
    except ValueError as error:
        raise ValueError(
            f"{directory} holds a run whose config.json this version refuses: {error}. Choose "
            "another --workdir"
        ) from None


def what_counts(tree: dict[str, Any], grows: bool) -> dict[str, Any]:
    """A configuration without what leaves the trained numbers as they are, but for rounding.

    Args:
        tree: as JSON has it.
        grows: whether its length may change too.
    """
    kept = {part: value for part, value in tree.items() if part not in _FREE_SECTIONS}
    free = {part: set(names) for part, names in _FREE.items()}
    if grows:
        free["loop"] |= set(_LENGTH)
    for part, names in free.items():
        kept[part] = {key: value for key, value in kept[part].items() if key not in names}
    if kept["data"]["validation_path"] is not None:
        del kept["data"]["validation_rows"]  # which is not used
    return kept
