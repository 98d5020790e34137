"""A store of very many adapters of a base with random weights, each unlike the others."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.mixed.cases import Base, adapter_of, log
from tera_jax import trees
from tera_jax.adapters.base import Adapter
from tera_jax.fingerprint import base_fingerprint, fingerprint
from tera_jax.io import adapter_description
from tera_jax.serve.record import DType
from tera_jax.serve.store import Store

_SHARED = ("method", "config", "layers", "frozen_fingerprint", "base")
_GROUP = 256


def name(number: int) -> str:
    """Of an adapter."""
    return f"user-{number:06d}"


def filled(directory: Path, base: Base, case: str, count: int, dtype: DType) -> tuple[Store, str]:
    """A store with so many adapters, which keeps those that it has, and the base's fingerprint."""
    adapter = adapter_of(case, base.model)
    found = base_fingerprint(base.params)
    frozen = fingerprint(base.frozen(adapter))
    names = {"name": "random", "fingerprint": found}
    described = adapter_description.describe(adapter, frozen, names, {})
    described = json.loads(json.dumps({key: described[key] for key in _SHARED}))
    shapes = {key: leaf.shape for key, leaf in _d(adapter, base).items()}
    if not (directory / "store.json").exists():
        Store.create(directory, shapes, described, dtype).close()
    store = Store.open(directory)
    start, before = time.perf_counter(), len(store)
    group = []
    for number, arrays in _adapters(shapes, before, count):
        group.append((name(number), arrays))
        if len(group) == _GROUP:
            store.put_all(group)
            group = []
    store.put_all(group)
    if made := len(store) - before:
        log(f"{made:,} adapters put, {made / (time.perf_counter() - start):,.0f} in a second")
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    log(f"{len(store):,} adapters of {size / len(store):,.0f} bytes: {size / 1e9:.3f} GB")
    return store, found


def _d(adapter: Adapter, base: Base) -> dict[str, Any]:
    return trees.named(adapter.abstract_d(base.abstract()))


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
