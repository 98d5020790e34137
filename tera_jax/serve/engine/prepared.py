"""Adapters on their way to the slots: read from the source, and made arrays on the device.

Threads of the engine do it while its own thread starts steps: a wave of requests for adapters that
nobody asked for lately then takes about as long as one of requests to the base.

On a mesh of several devices the engine's own thread makes the arrays: programs that two threads
start there can reach the devices in different orders, and wait for each other.
"""

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from tera_jax.serve.engine import loading
from tera_jax.serve.engine.adapter_source import Prepared, Source
from tera_jax.serve.engine.lru import LRU


class PreparedAdapters:
    """The adapters of a source, of which those used last stay in device memory.

    Args:
        source: of the adapters.
        row: makes the arrays on the device of a record's numbers.
        threads: that read and prepare.
        most: bytes in device memory.
        mesh: that the arrays lie on, if there is one.
    """

    def __init__(
        self,
        source: Source,
        row: Callable[[np.ndarray], Any],
        threads: int,
        most: int,
        mesh: Any = None,
    ) -> None:
        self._source, self._row, self._mesh = source, row, mesh
        self._kept: LRU[Any] = LRU(most)
        self._threads = ThreadPoolExecutor(threads, "tera-jax-load")

    def start(self, name: str) -> Future[Prepared]:
        """Read and prepare an adapter in another thread.

        The result raises ``UnknownAdapterError`` when there is none of this name, and
        ``ValueError`` when it is damaged.
        """
        return self._threads.submit(self._load, name)

    def close(self) -> None:
        """Begin nothing more, and wait for what has begun."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _load(self, name: str) -> Prepared:
        found = self._source.load(name)
        key = name, found.version
        if self._mesh is not None and self._mesh.size > 1:
            return Prepared(found.version, functools.partial(self._made, key, found.numbers))
        with loading.on(self._mesh):
            row = self._made(key, found.numbers)
        return Prepared(found.version, lambda: row)

    def _made(self, key: tuple[str, int | None], numbers: np.ndarray) -> Any:
        if (row := self._kept.get(key)) is None:
            row = self._row(numbers)
            self._kept.put(key, row, sum(leaf.nbytes for leaf in jax.tree.leaves(row)))
        return row
