"""A record: the arrays of one adapter as bytes, all of the same length in a store. No JAX.

Arrays stand one after the other in the order of their names, little-endian, without padding.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np

DType = Literal["float32", "bfloat16"]
_DTYPES = {"float32": np.dtype("<f4"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Layout(NamedTuple):
    """What the records of a store hold.

    Attributes:
        shapes: of each array, by its path in ``d``, in the order of the names.
        dtype: in which the numbers are kept.
    """

    shapes: dict[str, tuple[int, ...]]
    dtype: DType

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return sum(map(math.prod, self.shapes.values())) * _DTYPES[self.dtype].itemsize


def layout(shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> Layout:
    """A layout with its names in order.

    Raises:
        ValueError: for another type, no array, or an array without entries.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}; a store keeps one of {list(_DTYPES)}")
    found = {name: tuple(map(int, shapes[name])) for name in sorted(shapes)}
    empty = [name for name, shape in found.items() if math.prod(shape) < 1]
    if not found or empty:
        raise ValueError(f"an adapter needs arrays with entries, not {empty or 'none'}")
    return Layout(found, dtype)


def pack(arrays: Mapping[str, Any], layout: Layout) -> bytes:
    """The record of an adapter. Float32 keeps every bit, bfloat16 rounds to the nearest.

    Raises:
        ValueError: for an array that is missing, too many, of another shape, no floating numbers,
            or not finite, before or after rounding; it is named.
    """
    missing, extra = layout.shapes.keys() - arrays.keys(), arrays.keys() - layout.shapes.keys()
    if missing or extra:
        raise ValueError(
            f"the adapter lacks the arrays {sorted(missing)} and has {sorted(extra)} too many; a "
            "store holds adapters of one method on the same layers"
        )
    parts = []
    for name, shape in layout.shapes.items():
        array = np.asarray(arrays[name])
        if array.shape != shape:
            raise ValueError(f"{name} is {array.shape}, but the store holds {shape}")
        if array.dtype not in _DTYPES.values():
            raise ValueError(f"{name} is {array.dtype}; give float32 or bfloat16")
        with np.errstate(over="ignore"):
            kept = array.astype(_DTYPES[layout.dtype])
        if not np.isfinite(kept.astype(np.float32)).all():
            raise ValueError(f"{name} has NaN or infinity in {layout.dtype}; train it again")
        parts.append(kept.tobytes())
    return b"".join(parts)


def numbers(data: bytes, layout: Layout) -> np.ndarray:
    """All numbers of a record as one array (N,), which may not be written to."""
    return np.frombuffer(data, _DTYPES[layout.dtype])


def unpack(numbers_N: np.ndarray, layout: Layout) -> dict[str, np.ndarray]:
    """The arrays of a record, which may not be written to.

    Args:
        numbers_N: of :func:`numbers`.
        layout: of the record.
    """
    start, arrays = 0, {}
    for name, shape in layout.shapes.items():
        end = start + math.prod(shape)
        arrays[name] = numbers_N[start:end].reshape(shape)
        start = end
    return arrays


def checksum(name: str, version: int, data: bytes) -> bytes:
    """Of a record and whose it is: another adapter's record does not have it.

    SHA-256 takes about half the time of BLAKE2 where the processor has instructions for it.
    """
    digest = hashlib.sha256(f"{name}\0{version}\0".encode())
    digest.update(data)
    return digest.digest()
