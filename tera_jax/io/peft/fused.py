"""Adapters of modules that files fuse: Phi-3's ``qkv_proj`` and ``gate_up_proj``.

A LoRA of such a module is one of each of its parts: they share A, and each has its own columns of
B. The same holds for DoRA and HiRA. The other way round, the parts' own A stand beside each other,
and B is zero where a part meets the A of another. No other method of PEFT is the same on the whole
and on its parts.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.factory import make
from tera_jax.adapters.targets import get, put
from tera_jax.io.peft.modules import linear_layers
from tera_jax.llama.checkpoint import names
from tera_jax.methods import TargetLayer

EXACT = ("lora", "dora", "hira", "pissa", "unires")
"""Methods whose adapters of the parts are one of the whole; PEFT has the last two as LoRA."""


class Columns(NamedTuple):
    """Which outputs of a fused module are those of one of its parts, and how many it has."""

    start: int
    stop: int
    total: int


def has_fused(arrays: Iterable[str]) -> bool:
    """Whether arrays by PEFT's names are those of fused modules."""
    return any(f".{whole}." in key for key in arrays for whole in names.FUSED)


def require_exact(adapter: Adapter) -> None:
    """Check that PEFT can hold an adapter of a base whose files have fused modules.

    Raises:
        ValueError: where it cannot.
    """
    found = [target.path[-1] for target in adapter.layers if _whole(target) is not None]
    if found and adapter.name not in EXACT:
        raise ValueError(
            f"export 'peft' of method {adapter.name!r} on {', '.join(found)}, which this base's "
            f"files fuse ({', '.join(whole.split('.')[-1] for whole in names.FUSED)}): PEFT's "
            f"{adapter.name} of the whole is another update. Export 'adapter' or, merged, 'hf'; or "
            "leave these targets out"
        )


def columns(target: TargetLayer, layers: Mapping[tuple[str, ...], TargetLayer]) -> Columns | None:
    """Where the outputs of a layer stand in the fused module that has it; None where none does.

    Args:
        target: the layer.
        layers: those of the base, by path.
    """
    whole = _whole(target)
    if whole is None:
        return None
    sizes = {each.path: each.kernel_shape[-1] for each in _parts(target, whole, layers)}
    before = list(sizes)[: list(sizes).index(target.path)]
    start = sum(sizes[path] for path in before)
    return Columns(start, start + sizes[target.path], sum(sizes.values()))


def shared(adapter: Adapter, variables: Mapping[str, Any]) -> tuple[Adapter, dict[str, Any]]:
    """The same update with one A for all parts of a fused module, and with all parts of it.

    The rank is that of the fused module with most adapted parts, and one for all layers: what
    serves LoRAs mostly reads one rank. Further entries of A and B are zeros.

    Args:
        adapter: of a LoRA, DoRA or HiRA.
        variables: ``params``, ``frozen`` and ``d``.
    """
    layers = linear_layers(variables["params"])
    groups: dict[tuple[TargetLayer, ...], list[TargetLayer]] = {}
    for target in adapter.layers:
        whole = _whole(target)
        parts = (target,) if whole is None else _parts(target, whole, layers)
        groups.setdefault(tuple(layers[part.path] for part in parts), []).append(target)
    count = max(len(own) for own in groups.values())
    method: Any = adapter.method
    fields = {
        name: getattr(method, name) * count for name in ("rank", "alpha") if _has(method, name)
    }
    method = dataclasses.replace(method, **fields)
    every = sorted((part for parts in groups for part in parts), key=lambda each: each.path)
    present = {target.path for target in adapter.layers}
    absent = [part for part in every if part.path not in present]
    d: dict[str, Any] = _start(adapter.name, method, absent, variables["params"])
    for parts, adapted in groups.items():
        own = {each.path: get(variables["d"], (*each.path, adapter.name)) for each in adapted}
        a = _padded(jnp.concatenate([each["a"] for each in own.values()], -1), -1, 0, method.rank)
        for part in parts:
            found = own.get(part.path)
            if found is None:
                found = get(d, (*part.path, adapter.name))
            else:
                before = list(own).index(part.path) * adapter.method.rank  # type: ignore[attr-defined]
                found = {**found, "b": _padded(found["b"], -2, before, method.rank)}
            found = {name: leaf.astype(a.dtype) for name, leaf in found.items()}
            put(d, (*part.path, adapter.name), {**found, "a": a})
    return make(adapter.name, method, every), {**variables, "d": d}


def _start(name: str, method: Any, layers: list[TargetLayer], params: Any) -> dict[str, Any]:
    """The d of parts that are not adapted: with it a layer is the base's."""
    if not layers:
        return {}
    started = make(name, method, layers)
    return dict(jax.jit(lambda base: started.init_d(base, started.init_frozen(base)))(params))


def _padded(array: jax.Array, axis: int, before: int, rank: int) -> jax.Array:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (before, rank - before - array.shape[axis])
    return jnp.pad(array, widths)


def _whole(target: TargetLayer) -> str | None:
    """The fused module that has a layer."""
    module = ".".join(target.path[-2:])
    return next((whole for whole, parts in names.FUSED.items() if module in parts), None)


def _parts(
    target: TargetLayer, whole: str, layers: Mapping[tuple[str, ...], TargetLayer]
) -> tuple[TargetLayer, ...]:
    """All parts of a fused module in the order of its outputs."""
    above = target.path[:-2]
    return tuple(layers[(*above, *part.split("."))] for part in names.FUSED[whole])


def _has(method: Any, name: str) -> bool:
    return any(field.name == name for field in dataclasses.fields(method))
