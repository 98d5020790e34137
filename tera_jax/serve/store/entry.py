"""What a store gives. Imports no JAX."""

from typing import NamedTuple

import numpy as np


class UnknownAdapterError(KeyError):
    """A name that a store does not have."""

    def __str__(self) -> str:
        return str(self.args[0])


class Flat(NamedTuple):
    """An adapter as one array.

    Attributes:
        version: a number that no other put of the store has; None outside of one.
        numbers: (N,), float32 or bfloat16, its arrays one after the other in the order of the
            layout. They may not be written to.
    """

    version: int | None
    numbers: np.ndarray


class Entry(NamedTuple):
    """An adapter as it was read.

    Attributes:
        name: its name.
        version: a number that no other put of this store has.
        arrays: by path, in the type of the store. They may not be written to.
    """

    name: str
    version: int
    arrays: dict[str, np.ndarray]
