"""Adapter directories into a store and out of it, as ``save_adapter`` and ``train.many`` have them.

A directory's description is compared with the store's: all adapters of a store have one method, one
configuration, the same layers, one frozen network and one base.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tera_jax import atomic, disk
from tera_jax.adapters.base import Adapter
from tera_jax.io import adapter_description
from tera_jax.io.adapter_files import ARRAYS, FROZEN, checksum_of
from tera_jax.serve.store import SHARD_ROWS, Store, names, record
from tera_jax.serve.store.record import DType

_SHARED = ("method", "config", "layers", "frozen_fingerprint", "transforms")
_AT_ONCE = 256
"""Adapters of one transaction."""


def create(
    directory: str | os.PathLike[str],
    like: str | os.PathLike[str],
    dtype: DType = "bfloat16",
    shard_rows: int = SHARD_ROWS,
) -> Store:
    """Make an empty store for adapters like one.

    Args:
        directory: of the store, absent or empty.
        like: an adapter's directory, which is read and not imported.
        dtype: as of :meth:`tera_jax.serve.store.Store.create`.
        shard_rows: likewise.

    Raises:
        FileNotFoundError: when ``like`` is no directory of an adapter.
        FileExistsError: when the store's directory is not empty.
        ValueError: when the adapter is damaged, or its d is no arrays of floating numbers.
    """
    found = read(Path(like))
    shapes = {name: array.shape for name, array in found.arrays.items()}
    record.pack(found.arrays, record.layout(shapes, dtype))  # before anything is written
    store = Store.create(directory, shapes, found.shared, dtype, shard_rows)
    if (Path(like) / FROZEN).is_file():
        with atomic.replacing(store.directory / FROZEN) as part:
            shutil.copyfile(Path(like) / FROZEN, part)
    return store


def find(directory: str | os.PathLike[str]) -> dict[str, Path]:
    """The adapters below a directory by name, which is their path from there; or the one it is.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: for a path that is no name of an adapter.
    """
    top = Path(directory)
    if (top / adapter_description.FILE).is_file():
        return {names.require(top.resolve().name): top}
    files = sorted(top.rglob(adapter_description.FILE)) if top.is_dir() else []
    if not files:
        raise FileNotFoundError(
            f"{top} has no {adapter_description.FILE}; name a directory of adapters, such as "
            "<workdir>/adapters of train.many"
        )
    return {names.require(file.parent.relative_to(top).as_posix()): file.parent for file in files}


def import_all(store: Store, found: Mapping[str, Path]) -> Iterator[str]:
    """Put adapters' directories into a store, and yield each name when it is there.

    Raises:
        ValueError: for an adapter that is damaged or is of another method, base or network. Those
            before it stay.
    """
    group: list[tuple[str, Mapping[str, Any]]] = []
    for name, path in found.items():
        arrays, shared = read(path)
        _require_same(path, shared, store)
        group.append((name, arrays))
        if len(group) == _AT_ONCE:
            yield from _put(store, group)
            group = []
    yield from _put(store, group)


def export(store: Store, name: str, directory: str | os.PathLike[str]) -> Path:
    """Write an adapter of a store as an adapter directory, which ``load_adapter`` reads.

    Raises:
        UnknownAdapterError: when the store has no such name.
        FileExistsError: when the directory is not empty.
        ValueError: when the store is damaged.
    """
    d = store.get(name).arrays
    files = {ARRAYS: d}
    if (store.directory / FROZEN).is_file():
        files[FROZEN] = disk.read_arrays(store.directory / FROZEN, None)
    described = store.description
    adapter = adapter_description.adapter_of(store.directory, described)

    def write(path: Path) -> None:
        sums = {file: disk.save_arrays(path / file, arrays) for file, arrays in files.items()}
        description = adapter_description.describe(
            adapter, described["frozen_fingerprint"], described["base"], sums
        )
        adapter_description.write(path, description)

    def check(path: Path) -> None:
        found = read(path)
        disk.require_equal({key: found.arrays[key] for key in d}, d, path)

    return disk.write_checked(directory, write, check)


class Directory(NamedTuple):
    """An adapter's directory as it was read: d by path, and what a store's adapters share."""

    arrays: dict[str, np.ndarray]
    shared: dict[str, Any]


def read(path: Path) -> Directory:
    """Read an adapter's directory, and compare its checksums.

    Raises:
        FileNotFoundError: when it is none.
        ValueError: when it is damaged.
    """
    adapter, description = adapter_description.read(path)
    found = shared(adapter, description["frozen_fingerprint"], description["base"])
    checksum = checksum_of(path / ARRAYS, description)
    return Directory(disk.read_arrays(path / ARRAYS, checksum), found)


def shared(adapter: Adapter, frozen_fingerprint: str, base: Mapping[str, str]) -> dict[str, Any]:
    """What all adapters of a store have in common: its description, as JSON gives it back.

    Args:
        adapter: method and layers.
        frozen_fingerprint: of the ``frozen`` collection.
        base: ``name`` and ``fingerprint`` of the base.
    """
    made = adapter_description.describe(adapter, frozen_fingerprint, base, {})
    kept = {key: made[key] for key in (*_SHARED, "base") if key in made}
    return dict(json.loads(json.dumps(kept)))


def _put(store: Store, group: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    store.put_all(group)
    return [name for name, _ in group]


def _require_same(path: Path, shared: Mapping[str, Any], store: Store) -> None:
    expected = store.description
    for key in _SHARED:
        mine, theirs = shared.get(key), expected.get(key)
        if mine != theirs:
            raise ValueError(
                f"{path} has the {key} {_short(mine)}, but the store {store.directory} has "
                f"{_short(theirs)}; make another store for it"
            )
    mine, theirs = (each["base"]["fingerprint"] for each in (shared, expected))
    if mine != theirs:
        raise ValueError(
            f"{path} was made for a base with fingerprint {mine}, but the store "
            f"{store.directory} is for {theirs}; make another store for it"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
