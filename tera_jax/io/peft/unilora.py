"""What PEFT keeps of Uni-LoRA: the vector, and of its indices mostly the seed alone."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.targets import get
from tera_jax.io.peft.files import ARRAYS
from tera_jax.io.peft.modules import make_adapter, module_name, target_layers
from tera_jax.methods.unilora import UniLoRA
from tera_jax.ops.numerics import acc_dtype
from tera_jax.trees import SHARED

TYPE, NAME = "UNILORA", "unilora"
_THETA = "base_model.unilora_theta_d"
_SAVED = re.compile(r"base_model\.model\.(.+)\.unilora_(indices|scales)_([AB])")


def load(
    path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], params: Any
) -> tuple[Adapter, dict[str, Any]]:
    """The adapter that the two files in ``path`` hold, and its variables on a base."""
    theta = arrays.get(_THETA)
    length: int = config["theta_d_length"]
    if theta is None or theta.shape != (length,):
        found = "none" if theta is None else theta.shape
        raise ValueError(
            f"{path / ARRAYS} has {found} for {_THETA}, not {(length,)}; save the adapter again"
        )
    settings = {
        "rank": config["r"],
        "dropout": config["unilora_dropout"],
        "length": length,
        "init_bound": config["init_theta_d_bound"],
        "seed": config["proj_seed"],
    }
    adapter = make_adapter(path, NAME, settings, target_layers(path, config, params))
    frozen = jax.jit(adapter.init_frozen)(params)
    _require_same_indices(path, arrays, adapter, frozen)
    dtype = acc_dtype(get(params, (*adapter.layers[0].path, "kernel")).dtype)
    d = {SHARED: {NAME: {"theta": jnp.asarray(theta, dtype)}}}
    return adapter, {"params": params, "frozen": frozen, "d": d}


def _require_same_indices(
    path: Path, arrays: Mapping[str, np.ndarray], adapter: Adapter, frozen: Any
) -> None:
    """Raise ``ValueError`` where the file has indices (``save_indices``) that are others."""
    drawn = {}
    for target in adapter.layers:
        own = get(frozen, (*target.path, NAME))
        for layer in range(target.stack[0] if target.stack else 1):
            for ours, theirs in {"a": "A", "b": "B"}.items():
                index = own[ours][layer] if target.stack else own[ours]
                drawn[module_name(target.name, layer), theirs] = np.asarray(index).T
    for key, array in arrays.items():
        match = _SAVED.fullmatch(key)
        if key != _THETA and (match is None or (match[1], match[3]) not in drawn):
            raise ValueError(f"{path / ARRAYS} has an array {key!r} that {NAME} does not have")
        if match is None or match[2] == "scales":
            continue
        if not np.array_equal(array, drawn[match[1], match[3]]):
            raise ValueError(
                f"{key} in {path / ARRAYS} is not what the seed "
                f"{cast(UniLoRA, adapter.method).seed} gives for this base; the adapter was made "
                "for another base, or by a PEFT that draws otherwise than 0.21"
            )


def files(
    adapter: Adapter, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`.save` writes: the configuration and the arrays by PEFT's names."""
    method = cast(UniLoRA, adapter.method)
    config = {
        "peft_type": TYPE,
        "r": method.rank,
        "target_modules": sorted({target.path[-1] for target in adapter.layers}),
        "theta_d_length": method.length,
        "proj_seed": method.seed,
        "unilora_dropout": method.dropout,
        "init_theta_d_bound": method.init_bound,
    }
    return config, {_THETA: np.asarray(variables["d"][SHARED][NAME]["theta"])}
