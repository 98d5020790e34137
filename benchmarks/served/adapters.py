"""A store of very many adapters of a base with random weights, each unlike the others."""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.mixed.cases import CASES, Base, adapter_of
from tera_jax import trees
from tera_jax.fingerprint import base_fingerprint, fingerprint
from tera_jax.serve import transfer
from tera_jax.serve.store import Store
from tera_jax.serve.store.record import DType

KINDS = [case for case in CASES if case != "base"]
_GROUP = 256
_SECONDS = 10
"""Between two lines about how far a store is."""


def name(number: int) -> str:
    """Of an adapter."""
    return f"user-{number:06d}"


def prepared(directory: Path, base: Base, case: str, dtype: DType) -> str:
    """Make an empty store of a base if there is none, and give the base's fingerprint.

    Raises:
        ValueError: for a store of another base or method.
    """
    adapter = adapter_of(case, base.model)
    found = base_fingerprint(base.params)
    frozen = fingerprint(base.frozen(adapter))
    described = transfer.shared(adapter, frozen, {"name": "random", "fingerprint": found})
    abstract = trees.named(adapter.abstract_d(base.abstract()))
    shapes = {key: leaf.shape for key, leaf in abstract.items()}
    if not (directory / "store.json").exists():
        Store.create(directory, shapes, described, dtype).close()
    with Store.open(directory) as store:
        if (store.description, store.layout.dtype) != (described, dtype):
            raise ValueError(f"the store {directory} is of another base or method; name another")
    return found


def fingerprint_of(directory: Path) -> str:
    """Of the base that a store is for."""
    with Store.open(directory) as store:
        return str(store.description["base"]["fingerprint"])


def fill(directory: Path, count: int, log: Callable[[str], None]) -> dict[str, float]:
    """Put so many adapters, and measure the store. Those that are there stay.

    Raises:
        ValueError: when the disk has no room for them.
    """
    with Store.open(directory) as store:
        size, before, start = store.layout.size, len(store), time.perf_counter()
        room = shutil.disk_usage(directory).free
        if (count - before) * size > room:
            raise ValueError(
                f"{count - before:,} more adapters of {size:,} bytes need "
                f"{(count - before) * size / 1e9:.1f} GB, but {directory} has {room / 1e9:.1f} GB "
                "free; choose fewer --adapters, or another --store"
            )
        _put(store, before, count, log)
        made, seconds = len(store) - before, time.perf_counter() - start
    start = time.perf_counter()
    store = Store.open(directory)
    opening = 1e3 * (time.perf_counter() - start)
    with store:
        there = len(store)
    total = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    found = {
        "adapters": there,
        "put": made,
        "put_seconds": seconds,
        "gigabytes": total / 1e9,
        "open_ms": opening,
        "bytes_per_adapter": total / max(1, there),
        "parameter_bytes": size,
    }
    log(
        f"{made:,} adapters put in {seconds:.1f} s; {there:,} adapters of "
        f"{found['bytes_per_adapter']:,.0f} bytes ({size:,} of parameters): "
        f"{found['gigabytes']:.3f} GB, opened in {opening:.2f} ms"
    )
    return found


def _put(store: Store, before: int, count: int, log: Callable[[str], None]) -> None:
    last, group = time.perf_counter(), []
    for number, arrays in _adapters(store.layout.shapes, before, count):
        group.append((name(number), arrays))
        if len(group) == _GROUP:
            store.put_all(group)
            group = []
            if time.perf_counter() - last > _SECONDS:
                last = time.perf_counter()
                log(f"{number + 1:,} of {count:,} adapters put")
    store.put_all(group)


def _adapters(
    shapes: dict[str, tuple[int, ...]], first: int, count: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Windows of one block of noise, at offsets that a seed draws."""
    size = sum(map(math.prod, shapes.values()))
    draw = np.random.default_rng(0)
    noise = 0.05 * draw.standard_normal(2 * size + count, np.float32)
    offsets = draw.permutation(size + count)[:count]
    for number in range(first, count):
        start, arrays = int(offsets[number]), {}
        for key, shape in shapes.items():
            arrays[key] = noise[start : start + math.prod(shape)].reshape(shape)
            start += math.prod(shape)
        yield number, arrays


def params_bytes(params: Any) -> int:
    """Of a base."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))
