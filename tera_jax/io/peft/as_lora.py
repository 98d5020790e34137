"""Methods that PEFT has as a LoRA: PiSSA on an unchanged base, and UniRes written out by layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.factory import make
from tera_jax.adapters.targets import get, put
from tera_jax.methods.base import Method
from tera_jax.methods.lora import LoRA
from tera_jax.methods.unires import UniRes
from tera_jax.trees import SHARED

PISSA, UNIRES = "pissa", "unires"


def of_pissa(adapter: Adapter, variables: Mapping[str, Any]) -> tuple[Adapter, dict[str, Any]]:
    """A LoRA of twice the rank on the unchanged base: s (A B - A0 B0) = s [A A0] [B; -B0]."""
    settings = cast(Any, adapter.method)
    lora = LoRA(rank=2 * settings.rank, alpha=2 * settings.alpha, dropout=settings.dropout)
    d: dict[str, Any] = {}
    for target in adapter.layers:
        own, start = (
            get(variables[kind], (*target.path, adapter.name)) for kind in ("d", "frozen")
        )
        both = {
            "a": jnp.concatenate([own["a"], start["a"]], axis=-1),
            "b": jnp.concatenate([own["b"], -start["b"]], axis=-2),
        }
        put(d, (*target.path, "lora"), both)
    return make("lora", lora, adapter.layers), {**variables, "d": d}


def require_pissa_base(path: Path, adapter: Adapter, d: Any, frozen: Any) -> None:
    """Training moves A B by less than its own size; another base's principal part is further."""

    def inner(x: Any, y: Any) -> jax.Array:  # of A B and A' B', without forming them
        left = jnp.einsum("...ir,...is->...rs", x["a"], y["a"])
        right = jnp.einsum("...ro,...so->...rs", x["b"], y["b"])
        return jnp.sum(left * right, axis=(-2, -1))

    for target in adapter.layers:
        found, start = (get(tree, (*target.path, "pissa")) for tree in (d, frozen))
        moved = inner(found, found) - 2 * inner(found, start) + inner(start, start)
        if jnp.any(moved > inner(start, start)):
            raise ValueError(
                f"A and B of {target.name!r} in {path} are not near the principal part of this "
                "base's kernels: the base was changed already (PiSSA's residual?), or is another"
            )


def of_unires(adapter: Adapter, variables: Mapping[str, Any]) -> tuple[Adapter, dict[str, Any]]:
    """A LoRA of the same rank, with scale 1."""
    method = cast(UniRes, adapter.method)
    shared = {kind: variables[kind][SHARED][UNIRES] for kind in ("frozen", "d")}
    d: dict[str, Any] = {}
    for target in adapter.layers:
        frozen, own = (get(variables[kind], (*target.path, UNIRES)) for kind in ("frozen", "d"))

        def factors(frozen: Any, own: Any) -> Any:
            return method.factors({**frozen, **shared["frozen"]}, {**own, **shared["d"]})

        for _ in target.stack:
            factors = jax.vmap(factors)
        put(d, (*target.path, "lora"), dict(zip("ab", factors(frozen, own), strict=True)))
    lora = LoRA(rank=method.rank, alpha=float(method.rank), dropout=method.dropout)
    return make("lora", lora, adapter.layers), {**variables, "d": d}


def require_unires(method: Method) -> None:
    """Raise ``ValueError`` where the update is no LoRA."""
    if kernel_rank := cast(UniRes, method).kernel_rank:
        raise ValueError(
            f"kernel_rank {kernel_rank} of {UNIRES} scales the base's weights, which no adapter of "
            "PEFT does beside a LoRA; export the adapter in our format, or merged weights"
        )
