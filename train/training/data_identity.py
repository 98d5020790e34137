"""Which records a run was started with: ``data.json`` in its directory, and its checkpoints."""

import os
from collections.abc import Mapping
from pathlib import Path

from tera_jax.atomic import write_json

from . import kept

_FILE = "data.json"
_COUNTS = "records"
"""Its key of how many records there are; all others are fields."""


def require_same_data(workdir: str | os.PathLike[str], identities: Mapping[str, str]) -> None:
    """Check that a run goes on with the records that it was started with, before long work.

    Args:
        workdir: of the run; a new one, and one of a version that wrote none, pass.
        identities: of the records, by the field of the configuration that names them.

    Raises:
        ValueError: when the records are others.
    """
    require_identities(_saved(Path(workdir)), identities, str(workdir))


def require_identities(saved: Mapping[str, str], given: Mapping[str, str], where: str) -> None:
    """Raise ``ValueError`` for a field that names other records than it did; see above.

    Fields that either has not are not compared.
    """
    for field in sorted(saved.keys() & given.keys()):
        if saved[field] != given[field]:
            raise ValueError(
                f"{where} was made with records of identity {saved[field]} in {field}, but these "
                f"have {given[field]}; give those records again, or choose another --workdir"
            )


def keep_data_identity(
    workdir: str | os.PathLike[str],
    identities: Mapping[str, str],
    counts: Mapping[str, int] | None = None,
) -> None:
    """Write ``data.json``, unless it is there and whole.

    Args:
        workdir: of the run.
        identities: as for :func:`require_same_data`.
        counts: of the records, by the same fields. They are told, and not compared.
    """
    directory, counts = Path(workdir), dict(counts or {})
    if _saved(directory) != identities or kept_counts(directory) != counts:
        more = {_COUNTS: counts} if counts else {}
        write_json(directory / _FILE, {**identities, **more})


def kept_counts(workdir: str | os.PathLike[str]) -> dict[str, int]:
    """How many records each field named; nothing where that is not known."""
    found = (kept.read(Path(workdir) / _FILE) or {}).get(_COUNTS)
    given = found if isinstance(found, dict) else {}
    return {field: count for field, count in given.items() if isinstance(count, int)}


def _saved(directory: Path) -> dict[str, str]:
    """What is there; nothing where it is damaged, for the checkpoints have it too."""
    saved = kept.read(directory / _FILE) or {}
    return {field: value for field, value in saved.items() if isinstance(value, str)}
