"""A store of adapters: records of one length in shards, names in SQLite. Imports no JAX.

    store = Store.open("adapters")
    version = store.put("ana", {"layers/self_attn/q_proj/d0": ...})
    entry = store.get("ana")

All adapters of a store have one method, one configuration, one base and one frozen network: the
store's description says which. So an adapter is its trainable parameters alone. Several processes
and threads may read and write one store.

A put writes into a row that no name has, flushes it to the disk, and then lets the name have it in
one transaction. Whenever the process or the machine stops, a name has its old adapter or its new
one. Every read compares the checksum of the record, of its name and version.
"""

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tera_jax import atomic, json_files, locks
from tera_jax.json_files import Key
from tera_jax.serve.store import index, names, record
from tera_jax.serve.store.entry import Entry, Flat, UnknownAdapterError
from tera_jax.serve.store.index import Index, Row
from tera_jax.serve.store.record import DType, Layout

FILE = "store.json"
FORMAT = "tera-jax-store"
VERSION = 2
SHARD_ROWS = 1024
"""Records of a shard's file, by default."""
_SHARDS = "shards"
_TRIES = 8
"""Reads of a record that writers replace meanwhile."""
_REMEDY = "make the store again, and import the adapters"
_KEYS = {
    "format": Key(str),
    "version": Key(int),
    "dtype": Key(DType),
    "shard_rows": Key(int, least=1, below=2**31),
    "shapes": Key(dict[str, list[int]]),
    "description": Key(dict),
}


class Store:
    """An open store; :meth:`create` makes one, :meth:`open` opens one.

    Attributes:
        directory: of the store.
        layout: names, shapes and type of an adapter's arrays.
        description: what all adapters are of, as the maker of the store gave it.
    """

    def __init__(
        self, directory: Path, layout: Layout, description: Mapping[str, Any], shard_rows: int
    ) -> None:
        self.directory = directory
        self.layout = layout
        self.description = dict(description)
        self._shard_rows = shard_rows
        self._index = Index(directory / index.FILE)
        self._lock = threading.RLock()
        self._shards: dict[int, int] = {}

    @classmethod
    def create(
        cls,
        directory: str | os.PathLike[str],
        shapes: Mapping[str, tuple[int, ...]],
        description: Mapping[str, Any],
        dtype: DType = "bfloat16",
        shard_rows: int = SHARD_ROWS,
    ) -> "Store":
        """Make an empty store and open it.

        Args:
            directory: absent or empty.
            shapes: of the arrays of an adapter, by path.
            description: of what all adapters are, in values that JSON can hold.
            dtype: ``float32`` keeps every bit of d; ``bfloat16`` rounds it and takes half.
            shard_rows: records in one file.

        Raises:
            FileExistsError: when the directory is not empty, or another process makes a store.
            ValueError: for shapes or a type that a store cannot hold.
        """
        path = Path(directory)
        found = record.layout(shapes, dtype)
        if shard_rows < 1:
            raise ValueError(f"shard_rows is {shard_rows}; a shard has 1 record at least")
        with locks.held(path):
            if any(not atomic.is_part(each) for each in path.iterdir()):
                raise FileExistsError(f"{path} is not empty; open the store, or name another one")
            with atomic.replacing(path / index.FILE) as part:
                part.unlink(missing_ok=True)  # of a process that died here
                index.make(part)
            (path / _SHARDS).mkdir()  # the description's flush makes it last
            content = {
                "format": FORMAT,
                "version": VERSION,
                "dtype": found.dtype,
                "shard_rows": shard_rows,
                "shapes": {name: list(shape) for name, shape in found.shapes.items()},
                "description": dict(description),
            }
            atomic.write_json(path / FILE, content)
        return cls.open(path)

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> "Store":
        """Open a store.

        Raises:
            FileNotFoundError: when there is none.
            ValueError: when a file is damaged or of another format.
        """
        file = Path(directory) / FILE
        if not file.is_file():
            raise FileNotFoundError(f"{file} does not exist; name a store, or make one")
        content = json_files.typed(
            file, json_files.read(file, remedy=_REMEDY), _KEYS, remedy=_REMEDY
        )
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise ValueError(
                f"{file} has format and version {content['format']!r} {content['version']}, but "
                f"this library reads {FORMAT!r} {VERSION}; open it with the version that made it"
            )
        try:
            shapes = {name: tuple(shape) for name, shape in content["shapes"].items()}
            found = record.layout(shapes, content["dtype"])
        except ValueError as error:
            raise ValueError(f"{file}: {error}; {_REMEDY}") from None
        return cls(Path(directory), found, content["description"], content["shard_rows"])

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            self._index.close()
            for descriptor in self._shards.values():
                os.close(descriptor)
            self._shards = {}

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        with self._lock:
            return self._index.count()

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.version(name) is not None

    def version(self, name: str) -> int | None:
        """The version that a name has now; None for a name that is not there."""
        with self._lock:
            found = self._index.find(name)
        return found.version if found else None

    def names(self, after: str = "", most: int = 1000) -> list[str]:
        """Names in their order, behind ``after``: a page of at most ``most``."""
        with self._lock:
            return self._index.after(after, most)

    def get(self, name: str) -> Entry:
        """Read an adapter.

        Raises:
            UnknownAdapterError: when the store has no such name.
            ValueError: when the record is damaged.
        """
        found = self.read(name)
        assert found is not None  # no version is known
        assert found.version is not None
        return Entry(name, found.version, record.unpack(found.numbers, self.layout))

    def read(self, name: str, known: int | None = None) -> Flat | None:
        """Read an adapter as one array.

        Args:
            name: of the adapter.
            known: a version that is not read again.

        Returns:
            None when the adapter still has the known version.

        Raises:
            UnknownAdapterError: when the store has no such name.
            ValueError: when the record is damaged.
        """
        for _ in range(_TRIES):
            with self._lock:
                found = self._index.find(name)
            if found is None:
                raise UnknownAdapterError(f"no adapter {name!r} in {self.directory}")
            if found.version == known:
                return None
            data = self._read(found.number)
            if record.checksum(name, found.version, data) == found.checksum:
                return Flat(found.version, record.numbers(data, self.layout))
            if self.version(name) == found.version:  # nobody has replaced it meanwhile
                break
        raise ValueError(
            f"the record of {name!r} in {self.directory} is damaged; put the adapter again"
        )

    def put(self, name: str, arrays: Mapping[str, Any]) -> int:
        """Keep an adapter under a name, in place of the one that has it.

        Args:
            name: letters, digits and ``. _ : - /``.
            arrays: d by path, float32 or bfloat16, on the host.

        Returns:
            Its version.

        Raises:
            ValueError: for a name that is none, or arrays that are not of this store.
            OSError: when the disk is full; the store is as it was.
            TimeoutError: when another process writes for too long.
        """
        (version,) = self.put_all([(name, arrays)])
        return version

    def put_all(self, adapters: Iterable[tuple[str, Mapping[str, Any]]]) -> list[int]:
        """:meth:`put` of several, all of them or none: one flush and one transaction."""
        versions, touched = [], set()
        with self._lock, self._index.writing():
            for name, arrays in adapters:
                data = record.pack(arrays, self.layout)
                number, version = self._index.take_row()
                with index.naming(self.directory):
                    touched.add(self._write(number, data))
                check = record.checksum(names.require(name), version, data)
                self._index.put(name, Row(number, version, check))
                versions.append(version)
            with index.naming(self.directory):
                for descriptor in touched:
                    os.fsync(descriptor)
        return versions

    def delete(self, name: str) -> None:
        """Take an adapter out.

        Raises:
            UnknownAdapterError: when the store has no such name.
        """
        with self._lock, self._index.writing():
            if not self._index.remove(name):
                raise UnknownAdapterError(f"no adapter {name!r} in {self.directory}")

    def __iter__(self) -> Iterator[str]:
        last = ""
        while page := self.names(last):
            yield from page
            last = page[-1]

    def _read(self, number: int) -> bytes:
        shard, row = divmod(number, self._shard_rows)
        with contextlib.suppress(FileNotFoundError):
            descriptor = self._descriptor(shard, make=False)
            return os.pread(descriptor, self.layout.size, row * self.layout.size)
        return b""

    def _write(self, number: int, data: bytes) -> int:
        shard, row = divmod(number, self._shard_rows)
        descriptor = self._descriptor(shard, make=True)
        start, rest = row * self.layout.size, memoryview(data)
        while rest:
            written = os.pwrite(descriptor, rest, start)
            start, rest = start + written, rest[written:]
        return descriptor

    def _descriptor(self, shard: int, make: bool) -> int:
        with self._lock:
            if (known := self._shards.get(shard)) is not None:
                return known
            file = self.directory / _SHARDS / f"{shard:06d}.bin"
            is_new = make and not file.exists()
            try:
                found = os.open(file, os.O_RDWR | (os.O_CREAT if make else 0), 0o644)
            except PermissionError:
                found = os.open(file, os.O_RDONLY)
            if is_new:
                atomic.sync(file.parent)
            if hasattr(os, "posix_fadvise"):  # read a record, and nothing ahead of it
                os.posix_fadvise(found, 0, 0, os.POSIX_FADV_RANDOM)
            self._shards[shard] = found
            return found
