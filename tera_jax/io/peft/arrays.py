"""Trainable arrays that PEFT keeps by module, in the shapes that they have here."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.targets import get, parameter, put
from tera_jax.io.peft.files import ARRAYS, CONFIG, PREFIX
from tera_jax.io.peft.modules import module_name
from tera_jax.methods import TargetLayer
from tera_jax.ops.numerics import acc_dtype

Names = Mapping[str, str]
"""By the name of an array here what follows the module's name in PEFT."""


def read(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    adapter: Adapter,
    params: Any,
    names: Names,
    others: Collection[str] = (),
) -> dict[str, Any]:
    """The ``d`` collection, but for what all layers share.

    Args:
        path: of the adapter directory, for errors.
        arrays: by PEFT's names.
        adapter: of the method and the layers that the configuration names.
        params: the base's.
        names: of one layer's arrays.
        others: arrays that the file may have besides.

    Raises:
        ValueError: for an array that is missing, is of another shape, or is one too many.
    """
    like, left = adapter.abstract_d(params), set(arrays) - set(others)
    d: dict[str, Any] = {}
    for target in adapter.layers:
        dtype = acc_dtype(parameter(params, target, adapter.parameter).dtype)
        for ours, theirs in names.items():
            place = (*target.path, adapter.name, ours)
            shape = get(like, place).shape
            keys = _keys(adapter, target, theirs)
            found = [one(path, arrays, key, shape[len(target.stack) :]) for key in keys]
            put(d, place, jnp.asarray(np.stack(found).reshape(shape), dtype))
            left -= set(keys)
    if left:
        raise ValueError(
            f"{path / ARRAYS} has arrays {sorted(left)[:3]} that {adapter.name} does not have on "
            f"the modules that {CONFIG} names; save the adapter again"
        )
    return d


def one(
    path: Path, arrays: Mapping[str, np.ndarray], key: str, shape: tuple[int, ...]
) -> np.ndarray:
    """The array of that name.

    Raises:
        ValueError: when it is missing, or of another shape.
    """
    if key not in arrays:
        raise ValueError(f"{path / ARRAYS} lacks the array {key}; save the adapter again")
    if arrays[key].shape != shape:
        raise ValueError(
            f"{key} in {path / ARRAYS} has shape {arrays[key].shape}, but its settings and this "
            f"base make it {shape}; save the adapter again, or load the base that it was made for"
        )
    return arrays[key]


def written(adapter: Adapter, variables: Mapping[str, Any], names: Names) -> dict[str, np.ndarray]:
    """The arrays of all layers by PEFT's names."""
    arrays: dict[str, np.ndarray] = {}
    for target in adapter.layers:
        d = get(variables["d"], (*target.path, adapter.name))
        for ours, theirs in names.items():
            stack = np.asarray(d[ours])
            stack = stack if target.stack else stack[None]
            arrays |= dict(zip(_keys(adapter, target, theirs), stack, strict=True))
    return arrays


def target_names(adapter: Adapter) -> list[str]:
    """What ``target_modules`` has for the layers of an adapter."""
    return sorted({target.path[-1] for target in adapter.layers})


def _keys(adapter: Adapter, target: TargetLayer, theirs: str) -> list[str]:
    """PEFT's names of an array of every layer of a stack."""
    count = target.stack[0] if target.stack else 1
    modules = (module_name(target.name, layer, adapter.parameter) for layer in range(count))
    return [f"{PREFIX}{module}.{theirs}" for module in modules]
