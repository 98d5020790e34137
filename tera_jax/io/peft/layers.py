"""What PEFT keeps of methods that change the kernels of layers: LoRA and its kin, VeRA, HiRA."""

import collections
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.targets import get, put
from tera_jax.io.peft import as_lora, fused
from tera_jax.io.peft.files import ARRAYS, CONFIG, PREFIX
from tera_jax.io.peft.modules import (
    linear_layers,
    make_adapter,
    module_name,
    pattern_value,
    target_layers,
)
from tera_jax.methods.base import LinearMethod
from tera_jax.ops.numerics import acc_dtype
from tera_jax.trees import SHARED

_PROJECTIONS = {"a": "base_model.vera_A", "b": "base_model.vera_B"}


class _Leaf(NamedTuple):
    """One trainable array of a layer: its name here, what follows the module's name in PEFT.

    ``rank_axis`` is the axis of it here that has the length of a module's own rank.
    """

    ours: str
    theirs: str
    transposed: bool
    rank_axis: int | None = None

    @property
    def axes(self) -> int:
        """Of one layer's array."""
        return 2 if self.transposed else 1


class _Module(NamedTuple):
    """A module of a torch model: its rank, the factor of its update, and which outputs are ours."""

    name: str
    rank: int
    scale: float
    columns: fused.Columns | None = None


_LORA = (_Leaf("a", "lora_A.weight", True, 1), _Leaf("b", "lora_B.weight", True, 0))
LEAVES: dict[str, tuple[_Leaf, ...]] = {
    "lora": _LORA,
    "pissa": _LORA,
    "dora": (*_LORA, _Leaf("m", "lora_magnitude_vector", False)),
    "hira": (_Leaf("a", "hira_A", True, 1), _Leaf("b", "hira_B", True, 0)),
    "vera": (
        _Leaf("lambda_d", "vera_lambda_d", False),
        _Leaf("lambda_b", "vera_lambda_b", False),
    ),
}
"""By method."""


def load(
    path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], params: Any
) -> tuple[Adapter, dict[str, Any]]:
    """The adapter that the two files in ``path`` hold, and its variables on a base.

    Modules of several ranks and scales become one method of the largest rank and the most frequent
    scale. A and B of a smaller rank are padded with zeros, which no gradient reaches: a column of A
    and its row of B are both zero. B is multiplied by its own scale over the common one. So every
    ΔW is PEFT's. Of a fused module each part has A, and its own columns of B.
    """
    whole = fused.has_fused(arrays) and _is_exact(config)
    targets = target_layers(path, config, params, fused=whole)
    every = linear_layers(params) if whole else {}
    modules = [
        [
            _module(path, config, arrays, each)._replace(
                columns=fused.columns(target, every) if whole else None
            )
            for each in each_of
        ]
        for target, each_of in targets.items()
    ]
    together = [module for each in modules for module in each]
    rank = max(module.rank for module in together)
    scale = collections.Counter(module.scale for module in together).most_common(1)[0][0]
    name, settings = _method(config, rank, scale)
    adapter = make_adapter(path, name, settings, targets)
    _require_names(path, arrays, name, together)
    d = _trainable(path, arrays, adapter, modules, scale, params)
    if name == "vera":
        frozen = _projections(path, arrays, adapter, params)
    else:
        frozen = jax.jit(adapter.init_frozen)(params)
    if name == "pissa":
        as_lora.require_pissa_base(path, adapter, d, frozen)
    return adapter, {"params": params, "frozen": frozen, "d": d}


def _trainable(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    adapter: Adapter,
    modules: Sequence[Sequence[_Module]],
    scale: float,
    params: Any,
) -> dict[str, Any]:
    """The ``d`` collection; ``modules`` are those of each layer of the adapter."""
    like = adapter.abstract_d(params)
    d: dict[str, Any] = {}
    for target, own in zip(adapter.layers, modules, strict=True):
        place = (*target.path, adapter.name)
        dtype = acc_dtype(get(params, (*target.path, "kernel")).dtype)
        for leaf in LEAVES[adapter.name]:
            shape = get(like, (*place, leaf.ours)).shape
            stack = _stacked(path, arrays, own, leaf, shape, scale)
            put(d, (*place, leaf.ours), jnp.asarray(stack, dtype))
    return d


def _module(
    path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], name: str
) -> _Module:
    """With its own rank and alpha, where a pattern gives it such.

    PEFT 0.21 takes no notice of HiRA's rank_pattern where it makes a module. No scale of HiRA's
    depends on the rank, so that there the array itself says which of the two it has.
    """
    file, rank, scale = path / CONFIG, config["r"], 1.0
    if "rank_pattern" in config:
        rank = pattern_value(file, config, "rank_pattern", name, rank)
    if config["peft_type"] == "HIRA":
        array = arrays.get(_key(name, LEAVES["hira"][0]))
        if array is not None and array.shape[:1] == (config["r"],):
            rank = config["r"]
    if "lora_alpha" in config:
        alpha = pattern_value(file, config, "alpha_pattern", name, config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config["use_rslora"] else rank)
    return _Module(name, rank, scale)


def _is_exact(config: Mapping[str, Any]) -> bool:
    """Whether an adapter of a fused module is one of its parts. PiSSA's start is the whole's."""
    return config["peft_type"] != "VERA" and config.get("init_lora_weights") != "pissa"


def _method(config: Mapping[str, Any], rank: int, scale: float) -> tuple[str, dict[str, Any]]:
    """Our method and its settings."""
    if config["peft_type"] == "HIRA":
        return "hira", {"rank": rank, "dropout": config["hira_dropout"]}
    if config["peft_type"] == "VERA":
        settings = {"dropout": config["vera_dropout"], "d_initial": config["d_initial"]}
        return "vera", {"rank": rank, **settings}
    settings = {"rank": rank, "alpha": scale * rank, "dropout": config["lora_dropout"]}
    if config["use_dora"]:
        return "dora", settings
    return "pissa" if config["init_lora_weights"] == "pissa" else "lora", settings


def _require_names(
    path: Path, arrays: Mapping[str, np.ndarray], name: str, modules: Sequence[_Module]
) -> None:
    """Raise ``ValueError`` unless the arrays are those of the modules that the config names."""
    expected = {_key(module.name, leaf) for module in modules for leaf in LEAVES[name]}
    missing = expected - set(arrays)
    if missing:
        raise ValueError(f"{path / ARRAYS} lacks the array {min(missing)}; save the adapter again")
    extra = set(arrays) - expected - set(_PROJECTIONS.values() if name == "vera" else ())
    if extra:
        raise ValueError(
            f"{path / ARRAYS} has arrays {sorted(extra)[:3]} that {name} does not have on the "
            f"modules that {CONFIG} names; save the adapter again"
        )


def _key(module: str, leaf: _Leaf) -> str:
    return f"{PREFIX}{module}.{leaf.theirs}"


def _stacked(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    modules: Sequence[_Module],
    leaf: _Leaf,
    shape: tuple[int, ...],
    scale: float,
) -> np.ndarray:
    """The arrays of a stack's modules, each padded to the common rank, and B scaled."""
    one = shape[-leaf.axes :]
    layers = []
    for module in modules:
        key = _key(module.name, leaf)
        array = arrays[key].T if leaf.transposed else arrays[key]
        part = module.columns
        if part is not None and leaf.ours != "a" and array.shape[-1] == part.total:
            array = array[..., part.start : part.stop]
        own = tuple(
            module.rank if axis == leaf.rank_axis else size for axis, size in enumerate(one)
        )
        if array.shape != own:
            raise ValueError(
                f"{key} in {path / ARRAYS} has shape {arrays[key].shape}, but the rank "
                f"{module.rank} and this base's kernel make it {own[::-1]}; save the adapter "
                "again, or load the base that it was made for"
            )
        if leaf.ours == "b" and module.scale != scale:
            array = array.astype(np.float64) * (module.scale / scale)
        layers.append(
            np.pad(array, [(0, full - size) for full, size in zip(one, own, strict=True)])
        )
    return np.stack(layers).reshape(shape)


def _projections(
    path: Path, arrays: Mapping[str, np.ndarray], adapter: Adapter, params: Any
) -> dict[str, Any]:
    if not set(_PROJECTIONS.values()) <= set(arrays):
        raise ValueError(
            f"{path / ARRAYS} lacks VeRA's projections, which come from torch's generator; save "
            "it in PEFT with save_projection=True"
        )
    (expected,) = jax.eval_shape(adapter.init_frozen, params)[SHARED].values()
    for ours, theirs in _PROJECTIONS.items():
        if arrays[theirs].shape != expected[ours].shape[::-1]:
            raise ValueError(
                f"{theirs} in {path / ARRAYS} has shape {arrays[theirs].shape}, but the rank and "
                f"this base's largest kernel make it {expected[ours].shape[::-1]}; load the base "
                "that it was made for"
            )
    dtype = acc_dtype(get(params, (*adapter.layers[0].path, "kernel")).dtype)
    shared = {ours: jnp.asarray(arrays[theirs].T, dtype) for ours, theirs in _PROJECTIONS.items()}
    method = cast(LinearMethod, adapter.method)
    return {SHARED: {method.frozen_set(adapter.layers[0]): shared}}


def files(
    adapter: Adapter, variables: Mapping[str, Any], whole: bool = False
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`.save` writes: the configuration and the arrays by PEFT's names.

    With ``whole`` the modules are fused, and ``variables`` those of :func:`.fused.shared`.
    """
    name, settings = adapter.name, cast(Any, adapter.method)
    first = {target: module_name(target.name, 0, fused=whole) for target in adapter.layers}
    config: dict[str, Any] = {
        "r": settings.rank,
        "target_modules": sorted({module.split(".")[-1] for module in first.values()}),
    }
    if name in ("lora", "dora"):
        config |= {
            "peft_type": "LORA",
            "lora_alpha": settings.alpha,
            "lora_dropout": settings.dropout,
            "use_dora": name == "dora",
        }
    elif name == "hira":
        config |= {"peft_type": "HIRA", "hira_dropout": settings.dropout}
    else:
        config |= {
            "peft_type": "VERA",
            "vera_dropout": settings.dropout,
            "d_initial": settings.d_initial,
            "save_projection": True,
        }
    parts: dict[str, dict[int, np.ndarray]] = {}
    every = linear_layers(variables["params"]) if whole else {}
    for target in adapter.layers:
        d = {k: np.asarray(v) for k, v in get(variables["d"], (*target.path, name)).items()}
        columns = fused.columns(target, every) if whole else None
        for leaf in LEAVES[name]:
            stack = d[leaf.ours] if target.stack else d[leaf.ours][None]
            # All parts of a fused module have one A.
            place = 0 if columns is None or leaf.ours == "a" else columns.start
            for layer, array in enumerate(stack):
                key = _key(module_name(target.name, layer, fused=whole), leaf)
                parts.setdefault(key, {})[place] = array.T if leaf.transposed else array
    arrays = {
        key: np.concatenate([own[place] for place in sorted(own)]) if len(own) > 1 else own[0]
        for key, own in parts.items()
    }
    if name == "vera":
        (shared,) = variables["frozen"][SHARED].values()
        arrays |= {theirs: np.asarray(shared[ours]).T for ours, theirs in _PROJECTIONS.items()}
    return config, arrays
