"""What was used last is kept, up to a number of bytes. Imports no JAX."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LRU(Generic[Value]):
    """A mapping that forgets what was not used for longest. Threads may share one.

    Args:
        most: bytes of all values. A value that is larger is not kept.
    """

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Of all values now."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Value | None:
        """The value of a key, which counts as used."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keep a value of so many bytes, in place of the one that the key has."""
        with self._lock:
            _, old = self._values.pop(key, (None, 0))
            self._bytes -= old
            if size > self._most:
                return
            self._values[key] = (value, size)
            self._bytes += size
            while self._bytes > self._most:
                _, (_, gone) = self._values.popitem(last=False)
                self._bytes -= gone
