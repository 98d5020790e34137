"""UniRes as PEFT can hold it: its A diag(s) and B, written out as a LoRA for each layer."""

from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.factory import make
from tera_jax.adapters.targets import get, put
from tera_jax.io.peft import layers
from tera_jax.methods.base import Method
from tera_jax.methods.lora import LoRA
from tera_jax.methods.unires import UniRes
from tera_jax.trees import SHARED

NAME = "unires"


def require(method: Method) -> None:
    """Raise ``ValueError`` where the update is no LoRA."""
    if kernel_rank := cast(UniRes, method).kernel_rank:
        raise ValueError(
            f"kernel_rank {kernel_rank} of {NAME} scales the base's weights, which no adapter of "
            "PEFT does beside a LoRA; export the adapter in our format, or merged weights"
        )


def files(
    adapter: Adapter, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`.save` writes: those of a LoRA of the same rank, with scale 1."""
    method = cast(UniRes, adapter.method)
    shared = {kind: variables[kind][SHARED][NAME] for kind in ("frozen", "d")}
    d: dict[str, Any] = {}
    for target in adapter.layers:
        frozen, own = (get(variables[kind], (*target.path, NAME)) for kind in ("frozen", "d"))

        def factors(frozen: Any, own: Any) -> Any:
            return method.factors({**frozen, **shared["frozen"]}, {**own, **shared["d"]})

        for _ in target.stack:
            factors = jax.vmap(factors)
        put(d, (*target.path, "lora"), dict(zip("ab", factors(frozen, own), strict=True)))
    lora = LoRA(rank=method.rank, alpha=float(method.rank), dropout=method.dropout)
    return layers.files(make("lora", lora, adapter.layers), {**variables, "d": d})
