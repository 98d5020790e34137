"""What PEFT keeps of LN-tuning: a copy of each norm's scale."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tera_jax.adapters.base import Adapter
from tera_jax.io.peft.arrays import read, target_names, written
from tera_jax.io.peft.modules import make_adapter, target_layers

TYPE, NAME = "LN_TUNING", "ln_tuning"
_NAMES = {"scale": "ln_tuning_layers.weight"}
_DEFAULT = ["input_layernorm", "post_attention_layernorm", "norm"]
"""PEFT's targets for a Llama."""


def load(
    path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], params: Any
) -> tuple[Adapter, dict[str, Any]]:
    """The adapter that the two files in ``path`` hold, and its variables on a base."""
    if config["target_modules"] is None:
        config = {**config, "target_modules": _DEFAULT}
    targets = target_layers(path, config, params, "scale")
    adapter = make_adapter(path, NAME, {}, targets)
    d = read(path, arrays, adapter, params, _NAMES)
    return adapter, {"params": params, "frozen": {}, "d": d}


def files(
    adapter: Adapter, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`.save` writes: the configuration and the arrays by PEFT's names."""
    config = {"peft_type": TYPE, "target_modules": target_names(adapter)}
    return config, written(adapter, variables, _NAMES)
