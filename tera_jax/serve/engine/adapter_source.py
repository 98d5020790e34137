"""Where an engine finds adapters by name: in a store, or one that was given. Imports no JAX.

An adapter is one flat array: those of its record, one after the other. So it reaches a device in
one transfer.
"""

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from tera_jax.serve.engine.lru import LRU
from tera_jax.serve.store import Flat as Flat
from tera_jax.serve.store import Store, UnknownAdapterError, names
from tera_jax.serve.store.record import Layout


class OnDevice(NamedTuple):
    """An adapter on the device.

    Attributes:
        version: in the store; None where there is no store.
        numbers: (N,), those of its record, as a ``jax.Array``.
    """

    version: int | None
    numbers: Any


@runtime_checkable
class Source(Protocol):
    """Adapters by name. All functions may be called from any thread."""

    hits: int
    """Adapters that were in memory."""
    misses: int
    """Adapters that were read."""

    @property
    def host_bytes(self) -> int:
        """Of the adapters in memory."""

    def names(self, after: str, most: int) -> list[str]:
        """A page of names in their order."""

    def has(self, name: str) -> bool:
        """Whether there is an adapter of this name."""

    def version(self, name: str) -> int | None:
        """Which the name has now; None for a name that is not there, or where there is no store."""

    def load(self, name: str) -> Flat:
        """The adapter as it is now.

        Raises:
            UnknownAdapterError: when there is none.
            ValueError: when it is damaged.
        """

    def close(self) -> None:
        """Let go of all files."""


class Given:
    """Adapters that are in memory from the start: one, or none."""

    def __init__(self, adapters: Mapping[str, np.ndarray]) -> None:
        self._adapters = {names.require(name): adapters[name] for name in sorted(adapters)}
        self.hits = self.misses = 0

    @property
    def host_bytes(self) -> int:
        """Of all."""
        return sum(numbers.nbytes for numbers in self._adapters.values())

    def names(self, after: str, most: int) -> list[str]:
        """A page of names in their order."""
        return [name for name in self._adapters if name > after][:most]

    def has(self, name: str) -> bool:
        """Whether there is an adapter of this name."""
        return name in self._adapters

    def version(self, name: str) -> int | None:
        """None, for there is no store."""
        del name
        return None

    def load(self, name: str) -> Flat:
        """The adapter.

        Raises:
            UnknownAdapterError: when there is none.
        """
        if name not in self._adapters:
            raise UnknownAdapterError(f"no adapter {name!r}; there are {[*self._adapters]}")
        self.hits += 1
        return Flat(None, self._adapters[name])

    def close(self) -> None:
        """Nothing is open."""


class Stored:
    """The adapters of a store, of which those used last stay in memory.

    The index says before each use which version a name has, so that a ``put`` is seen by the next
    request, whichever process makes it.

    Args:
        store: opened again here, so that long writes through the given one delay no reader.
        most: bytes in memory.
    """

    def __init__(self, store: Store, most: int) -> None:
        self._store = Store.open(store.directory)
        self._kept: LRU[Flat] = LRU(most)
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    @property
    def host_bytes(self) -> int:
        """Of the adapters in memory."""
        return self._kept.bytes

    def names(self, after: str, most: int) -> list[str]:
        """A page of names in their order."""
        return self._store.names(after, most)

    def has(self, name: str) -> bool:
        """Whether there is an adapter of this name."""
        return self.version(name) is not None

    def version(self, name: str) -> int | None:
        """Which the name has now; None for a name that is not there."""
        return self._store.version(name)

    def load(self, name: str) -> Flat:
        """The adapter as the store has it now.

        Raises:
            UnknownAdapterError: when the store has no such name.
            ValueError: when the record is damaged.
        """
        kept = self._kept.get(name)
        read = self._store.read(name, None if kept is None else kept.version)
        with self._lock:
            self.hits, self.misses = self.hits + (read is None), self.misses + (read is not None)
        if read is None:
            assert kept is not None
            return kept
        self._kept.put(name, read, read.numbers.nbytes)
        return read

    def close(self) -> None:
        """Let go of the store's files."""
        self._store.close()


def flat(arrays: Mapping[str, Any], layout: Layout) -> np.ndarray:
    """The arrays of an adapter as one, in the order of the layout."""
    return np.concatenate([np.asarray(arrays[name]).reshape(-1) for name in layout.shapes])
