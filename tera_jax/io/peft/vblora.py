"""What PEFT keeps of VB-LoRA: the logits of each module, and the one bank."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.targets import parameter
from tera_jax.io.peft.arrays import one, read, target_names, written
from tera_jax.io.peft.modules import make_adapter, target_layers
from tera_jax.methods.vblora import VBLoRA
from tera_jax.ops.numerics import acc_dtype
from tera_jax.trees import SHARED

TYPE, NAME = "VBLORA", "vblora"
_NAMES = {"a": "vblora_logits_A", "b": "vblora_logits_B"}
_BANK = "base_model.vblora_vector_bank"
_SETTINGS = {
    "rank": "r",
    "dropout": "vblora_dropout",
    "num_vectors": "num_vectors",
    "vector_length": "vector_length",
    "top_k": "topk",
    "bank_bound": "init_vector_bank_bound",
    "logits_std": "init_logits_std",
}
"""By our name of a field PEFT's."""


def load(
    path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], params: Any
) -> tuple[Adapter, dict[str, Any]]:
    """The adapter that the two files in ``path`` hold, and its variables on a base."""
    settings = {ours: config[theirs] for ours, theirs in _SETTINGS.items()}
    adapter = make_adapter(path, NAME, settings, target_layers(path, config, params))
    method = cast(VBLoRA, adapter.method)
    bank_VL = one(path, arrays, _BANK, (method.num_vectors, method.vector_length))
    d = read(path, arrays, adapter, params, _NAMES, {_BANK})
    dtype = acc_dtype(parameter(params, adapter.layers[0], "kernel").dtype)
    d[SHARED] = {NAME: {"bank": jnp.asarray(bank_VL, dtype)}}
    return adapter, {"params": params, "frozen": {}, "d": d}


def files(
    adapter: Adapter, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`.save` writes: the configuration and the arrays by PEFT's names."""
    method = cast(VBLoRA, adapter.method)
    config = {
        "peft_type": TYPE,
        "target_modules": target_names(adapter),
        **{theirs: getattr(method, ours) for ours, theirs in _SETTINGS.items()},
    }
    bank_VL = np.asarray(variables["d"][SHARED][NAME]["bank"])
    return config, {**written(adapter, variables, _NAMES), _BANK: bank_VL}
