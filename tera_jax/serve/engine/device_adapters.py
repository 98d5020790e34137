"""Adapters on their way to the slots: read from the source, and put on the device.

Threads of the engine do it while its own thread starts steps: a wave of requests for adapters that
nobody asked for lately then takes about as long as one of requests to the base. They start no
programs: those of two threads could reach several devices in different orders, and wait for each
other.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from tera_jax.serve.engine.adapter_source import OnDevice, Source
from tera_jax.serve.engine.lru import LRU


class DeviceAdapters:
    """The adapters of a source, of which those used last stay in device memory.

    Args:
        source: of the adapters.
        place: puts a record's numbers on the device.
        threads: that read and put.
        most: bytes in device memory.

    Attributes:
        hits: adapters that were on the device.
    """

    def __init__(
        self, source: Source, place: Callable[[np.ndarray], jax.Array], threads: int, most: int
    ) -> None:
        self._source, self._place = source, place
        self._kept: LRU[OnDevice] = LRU(most)
        self.hits = 0
        self._threads = ThreadPoolExecutor(threads, "tera-jax-load")

    def start(self, name: str, version: int | None) -> Future[OnDevice]:
        """Read an adapter and put it on the device, in another thread where it is not there yet.

        One thread at a time may call it, and waits for no file. The result raises
        ``UnknownAdapterError`` when there is no adapter of this name, and ``ValueError`` when it is
        damaged.

        Args:
            name: of the adapter.
            version: which the name had lately. Another one on the device is not taken.
        """
        kept = self._kept.get(name)
        if kept is None or kept.version != version:
            return self._threads.submit(self._load, name)
        self.hits += 1
        found: Future[OnDevice] = Future()
        found.set_result(kept)
        return found

    def close(self) -> None:
        """Begin nothing more, and wait for what has begun."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _load(self, name: str) -> OnDevice:
        found = self._source.load(name)
        kept = self._kept.get(name)
        if kept is not None and kept.version == found.version:  # another request came before
            return kept
        made = OnDevice(found.version, self._place(found.numbers))
        self._kept.put(name, made, made.numbers.nbytes)
        return made
