"""What a directory belongs to: one run, whose configuration it holds as ``config.json``."""

import json
import os
from pathlib import Path
from typing import Any

from tera_jax.disk import require_empty

from ..config import Config, differences, to_dict

VERSION = 2
"""Of the file's keys and of what checkpoints hold."""

_CONFIG = "config.json"
_FREE = (
    ("data", "allow_cut_responses"),
    ("model", "unroll"),
    ("evaluate", "unroll"),
    ("loop", "max_hours"),
    ("loop", "requeue_status"),
)
"""Fields that may change between starts, beside the mesh."""


def require_workdir(workdir: str | os.PathLike[str], config: Config) -> None:
    """Check that ``workdir`` is empty, absent, or holds a run with this configuration.

    Another mesh, other hours and unrolled layers are allowed: the run is the same to rounding.

    Raises:
        FileExistsError: when the directory holds something else, or a run with another
            configuration; the error lists the differences.
        ValueError: as :func:`saved_config`.
    """
    directory = Path(workdir)
    if not (directory / _CONFIG).is_file():
        require_empty(directory)
        return
    rows = differences(_what_counts(saved_config(workdir)), _what_counts(_json(config)))
    if rows:
        raise FileExistsError(
            f"{workdir} holds a run with another configuration; choose another --workdir. "
            + "; ".join(rows)
        )


def init_workdir(workdir: str | os.PathLike[str], config: Config) -> None:
    """Write the configuration into ``workdir``, unless it is there.

    Raises:
        FileExistsError: as :func:`require_workdir`.
        ValueError: likewise.
    """
    require_workdir(workdir, config)
    path = Path(workdir) / _CONFIG
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"version": VERSION, **_json(config)}, indent=2) + "\n")


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
    try:
        saved = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); choose another --workdir") from None
    version = saved.pop("version", 1)
    if version != VERSION:
        raise ValueError(
            f"{workdir} holds a run of version {version} of this program's files, and this is "
            f"version {VERSION}: finish and export it with the program that began it, or train "
            "again in another --workdir"
        )
    return saved if mesh is None else {**saved, "mesh": mesh}


def _what_counts(tree: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what changes a run by rounding at most."""
    kept = {**tree, "mesh": None}
    for part, name in _FREE:
        kept[part] = {key: value for key, value in kept[part].items() if key != name}
    return kept


def _json(config: Config) -> dict[str, Any]:
    """The configuration after a round trip through JSON."""
    return json.loads(json.dumps(to_dict(config)))
