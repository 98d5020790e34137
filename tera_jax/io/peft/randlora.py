"""What PEFT keeps of RandLoRA: the trained vectors, and the bases that all layers share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.targets import parameter
from tera_jax.io.peft.arrays import one, read, target_names, written
from tera_jax.io.peft.files import ARRAYS
from tera_jax.io.peft.modules import make_adapter, target_layers
from tera_jax.methods.randlora import RandLoRA
from tera_jax.ops.numerics import acc_dtype
from tera_jax.trees import SHARED

TYPE, NAME = "RANDLORA", "randlora"
_NAMES = {"lam": "randlora_lambda", "gamma": "randlora_gamma"}
_BASES = {"a": "randlora_A", "b": "randlora_B"}


def load(
    path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], params: Any
) -> tuple[Adapter, dict[str, Any]]:
    """The adapter that the two files in ``path`` hold, and its variables on a base."""
    settings = {
        "rank": config["r"],
        "alpha": config["randlora_alpha"],
        "dropout": config["randlora_dropout"],
    }
    adapter = make_adapter(path, NAME, settings, target_layers(path, config, params))
    method = cast(RandLoRA, adapter.method)
    bases, copies = _bases(path, arrays, adapter, params)
    d = read(path, arrays, adapter, params, _NAMES, copies)
    shared = {SHARED: {method.frozen_set(adapter.layers[0]): bases}}
    return adapter, {"params": params, "frozen": shared, "d": d}


def _bases(
    path: Path, arrays: Mapping[str, np.ndarray], adapter: Adapter, params: Any
) -> tuple[dict[str, jax.Array], set[str]]:
    """A and B, and the names of all their copies in the file: PEFT adds one for each module."""
    (like,) = jax.eval_shape(adapter.init_frozen, params)[SHARED].values()
    dtype = acc_dtype(parameter(params, adapter.layers[0], "kernel").dtype)
    found, copies = {}, set()
    for ours, theirs in _BASES.items():
        key, shape = f"base_model.{theirs}", like[ours].shape
        if key not in arrays:
            raise ValueError(
                f"{path / ARRAYS} lacks RandLoRA's bases, which come from torch's generator; save "
                "it in PEFT with save_projection=True"
            )
        array = one(path, arrays, key, (shape[0], 1, shape[1]) if ours == "a" else shape)
        found[ours] = jnp.asarray(array.reshape(shape), dtype)
        for name in arrays:
            if name.endswith(f".{theirs}"):
                copies.add(name)
                if not np.array_equal(arrays[name], array):
                    raise ValueError(
                        f"{name} in {path / ARRAYS} is another than {key}; all modules share one: "
                        "save the adapter again"
                    )
    return found, copies


def files(
    adapter: Adapter, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`.save` writes: the configuration and the arrays by PEFT's names."""
    method = cast(RandLoRA, adapter.method)
    config = {
        "peft_type": TYPE,
        "target_modules": target_names(adapter),
        "r": method.rank,
        "randlora_alpha": method.alpha,
        "randlora_dropout": method.dropout,
        "save_projection": True,
    }
    (shared,) = variables["frozen"][SHARED].values()
    bases = {f"base_model.{theirs}": np.asarray(shared[ours]) for ours, theirs in _BASES.items()}
    bases["base_model.randlora_A"] = bases["base_model.randlora_A"][:, None]
    return config, {**written(adapter, variables, _NAMES), **bases}
