"""What PEFT keeps of FourierFT: the trained entries; their positions follow from the seed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from tera_jax.adapters.base import Adapter
from tera_jax.io.peft.arrays import read, target_names, written
from tera_jax.io.peft.modules import make_adapter, target_layers
from tera_jax.methods.fourierft import AS_TORCH, FourierFT

TYPE, NAME = "FOURIERFT", "fourierft"
_NAMES = {"c": "fourierft_spectrum"}


def load(
    path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], params: Any
) -> tuple[Adapter, dict[str, Any]]:
    """The adapter that the two files in ``path`` hold, and its variables on a base."""
    settings = {
        "num_frequencies": config["n_frequency"],
        "scaling": config["scaling"],
        "init": "zeros" if config["init_weights"] else "normal",
        "seed": config["random_loc_seed"],
    }
    adapter = make_adapter(path, NAME, settings, target_layers(path, config, params))
    _require_torchs_positions(adapter)
    d = read(path, arrays, adapter, params, _NAMES)
    frozen = jax.jit(adapter.init_frozen)(params)
    return adapter, {"params": params, "frozen": frozen, "d": d}


def _require_torchs_positions(adapter: Adapter) -> None:
    """Raise ``ValueError`` for a kernel of so many entries that torch draws in another way."""
    for layer in adapter.layers:
        if math.prod(layer.kernel_shape) >= AS_TORCH:
            raise ValueError(
                f"the kernel {layer.kernel_shape} of layer {layer.name!r} has {AS_TORCH} entries "
                "or more. Its positions in PEFT come from another shuffle, which is not read or "
                "written; choose other targets, or merge the adapter"
            )


def files(
    adapter: Adapter, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`.save` writes: the configuration and the arrays by PEFT's names."""
    _require_torchs_positions(adapter)
    method = cast(FourierFT, adapter.method)
    config = {
        "peft_type": TYPE,
        "target_modules": target_names(adapter),
        "n_frequency": method.num_frequencies,
        "scaling": method.scaling,
        "init_weights": method.init == "zeros",
        "random_loc_seed": method.seed,
    }
    return config, written(adapter, variables, _NAMES)
