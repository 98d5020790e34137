"""What PEFT keeps of methods that change the kernels of layers: LoRA and its kin, VeRA, HiRA."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.factory import make
from tera_jax.adapters.targets import get, put
from tera_jax.io.peft.files import ARRAYS, CONFIG
from tera_jax.llama.checkpoint import names
from tera_jax.methods import TargetLayer, method_class
from tera_jax.methods.base import LinearMethod
from tera_jax.ops.numerics import acc_dtype
from tera_jax.trees import SHARED

_PREFIX = "base_model.model."
_PROJECTIONS = {"a": "base_model.vera_A", "b": "base_model.vera_B"}


class _Leaf(NamedTuple):
    """One trainable array of a layer: its name here, what follows the module's name in PEFT."""

    ours: str
    theirs: str
    transposed: bool


_LORA = (_Leaf("a", "lora_A.weight", True), _Leaf("b", "lora_B.weight", True))
LEAVES: dict[str, tuple[_Leaf, ...]] = {
    "lora": _LORA,
    "pissa": _LORA,
    "dora": (*_LORA, _Leaf("m", "lora_magnitude_vector", False)),
    "hira": (_Leaf("a", "hira_A", True), _Leaf("b", "hira_B", True)),
    "vera": (
        _Leaf("lambda_d", "vera_lambda_d", False),
        _Leaf("lambda_b", "vera_lambda_b", False),
    ),
}
"""By method."""


def load(
    path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], params: Any
) -> tuple[Adapter, dict[str, Any]]:
    """The adapter that the two files in ``path`` hold, and its variables on a base."""
    name, settings = _settings(path, config)
    pattern = re.compile(
        rf"{re.escape(_PREFIX)}(.+)\.({'|'.join(re.escape(leaf.theirs) for leaf in LEAVES[name])})"
    )
    matches: dict[str, re.Match[str]] = {
        key: match for key in arrays if (match := pattern.fullmatch(key))
    }
    extra = set(arrays) - set(matches) - (set(_PROJECTIONS.values()) if name == "vera" else set())
    if extra:
        raise ValueError(f"{path / ARRAYS} has arrays {sorted(extra)} that {name} does not have")
    modules = {match[1] for match in matches.values()}
    targets = target_layers(path, modules, params)
    adapter = make(name, method_class(name)(**settings), targets)
    frozen = (
        _projections(path, arrays, adapter, params)
        if name == "vera"
        else jax.jit(adapter.init_frozen)(params)
    )
    shapes = jax.eval_shape(adapter.init_d, params, frozen)
    d: dict[str, Any] = {}
    for target in targets:
        like = get(shapes, (*target.path, name))
        dtype = acc_dtype(get(params, (*target.path, "kernel")).dtype)
        put(
            d,
            (*target.path, name),
            {
                leaf.ours: _stacked(path, arrays, target, leaf, like[leaf.ours].shape, dtype)
                for leaf in LEAVES[name]
            },
        )
    if name == "pissa":
        _require_pissa_base(path, adapter, d, frozen)
    return adapter, {"params": params, "frozen": frozen, "d": d}


def _settings(path: Path, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our method and its settings."""
    require_known(path, config)
    kind: Any = config.get("peft_type")
    rank: Any = config.get("r")
    if kind == "LORA":
        scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
        settings = {"rank": rank, "alpha": scale * rank, "dropout": config["lora_dropout"]}
        if config.get("use_dora"):
            return "dora", settings
        start = config.get("init_lora_weights")
        if isinstance(start, str) and start.startswith("pissa"):
            niter = start.removeprefix("pissa").removeprefix("_niter_")
            return "pissa", {**settings, "niter": int(niter) if niter else None}
        return "lora", settings
    if kind == "HIRA":
        return "hira", {"rank": rank, "dropout": config["hira_dropout"]}
    if kind == "VERA":
        return "vera", {
            "rank": rank,
            "dropout": config["vera_dropout"],
            "d_initial": config["d_initial"],
        }
    raise ValueError(
        f"{path / CONFIG} is of type {kind!r}; read are LORA, HIRA, VERA, UNILORA and prompts"
    )


def require_known(path: Path, config: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for what PEFT knows and this does not, by name."""
    refused = {
        "bias": ("none",),
        "fan_in_fan_out": (False,),
        "modules_to_save": (None, []),
        "rank_pattern": (None, {}),
        "alpha_pattern": (None, {}),
        "lora_bias": (False,),
        "layer_replication": (None,),
        "trainable_token_indices": (None,),
        "target_parameters": (None, []),
    }
    for key, fine in refused.items():
        if key in config and config[key] not in fine:
            raise ValueError(f"{path / CONFIG} sets {key} to {config[key]!r}, which is not read")


def target_layers(path: Path, modules: set[str], params: Any) -> tuple[TargetLayer, ...]:
    """The layers of the Llama whose modules, for all layers of the stack, PEFT names."""
    targets: list[TargetLayer] = []
    known: set[str] = set()
    for name in names.TABLE.values():
        *module_path, leaf = name.path.split("/")
        stacked = name.hf.removesuffix(".weight").format(0) in modules
        if leaf != "kernel" or not stacked:
            continue
        kernel = get(params, (*module_path, "kernel"))
        stack = kernel.shape[:-2]
        theirs = {
            name.hf.removesuffix(".weight").format(i) for i in range(stack[0] if stack else 1)
        }
        if theirs - modules:
            raise ValueError(
                f"{path / ARRAYS} lacks arrays of {sorted(theirs - modules)[0]!r}; an adapter "
                "covers all layers of the base, and this base may be another"
            )
        known |= theirs
        targets.append(TargetLayer(tuple(module_path), kernel.shape[-2:], stack))
    if modules - known or not targets:
        raise ValueError(
            f"{path / ARRAYS} adapts {sorted(modules - known)[:3]}, which this base does not have"
        )
    return tuple(sorted(targets, key=lambda target: target.path))


def _key(target: TargetLayer, layer: int, leaf: _Leaf) -> str:
    return f"{_PREFIX}{module_name(target.name, layer)}.{leaf.theirs}"


def module_name(name: str, layer: int) -> str:
    """That of a torch Llama for a layer of the target of that name."""
    return names.TABLE[f"{name}/kernel"].hf.removesuffix(".weight").format(layer)


def _stacked(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    target: TargetLayer,
    leaf: _Leaf,
    shape: tuple[int, ...],
    dtype: Any,
) -> jax.Array:
    layers = []
    for layer in range(target.stack[0] if target.stack else 1):
        key = _key(target, layer, leaf)
        if key not in arrays:
            raise ValueError(f"{path / ARRAYS} lacks the array {key}; save the adapter again")
        layers.append(arrays[key].T if leaf.transposed else arrays[key])
        one = shape[len(target.stack) :]
        if layers[-1].shape != one:
            raise ValueError(
                f"{key} in {path / ARRAYS} has shape {arrays[key].shape}, which does not fit the "
                f"rank and the kernel {target.kernel_shape} of this base"
            )
    return jnp.asarray(np.stack(layers).reshape(shape), dtype)


def _projections(
    path: Path, arrays: Mapping[str, np.ndarray], adapter: Adapter, params: Any
) -> dict[str, Any]:
    if not set(_PROJECTIONS.values()) <= set(arrays):
        raise ValueError(
            f"{path / ARRAYS} lacks VeRA's projections, which come from torch's generator; save "
            "it in PEFT with save_projection=True"
        )
    dtype = acc_dtype(get(params, (*adapter.layers[0].path, "kernel")).dtype)
    shared = {ours: jnp.asarray(arrays[theirs].T, dtype) for ours, theirs in _PROJECTIONS.items()}
    method = cast(LinearMethod, adapter.method)
    return {SHARED: {method.frozen_set(adapter.layers[0]): shared}}


def _require_pissa_base(path: Path, adapter: Adapter, d: Any, frozen: Any) -> None:
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


def files(
    adapter: Adapter, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`.save` writes: the configuration and the arrays by PEFT's names."""
    name, settings = adapter.name, cast(Any, adapter.method)
    config: dict[str, Any] = {
        "r": settings.rank,
        "target_modules": sorted({target.path[-1] for target in adapter.layers}),
    }
    if name in ("lora", "dora", "pissa"):
        twice = 2 if name == "pissa" else 1
        config |= {
            "peft_type": "LORA",
            "r": twice * settings.rank,
            "lora_alpha": twice * settings.alpha,
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
    arrays: dict[str, np.ndarray] = {}
    for target in adapter.layers:
        d = {k: np.asarray(v) for k, v in get(variables["d"], (*target.path, name)).items()}
        if name == "pissa":  # s (A B - A0 B0) = s [A A0] [B; -B0]
            start = get(variables["frozen"], (*target.path, name))
            d["a"] = np.concatenate([d["a"], np.asarray(start["a"])], axis=-1)
            d["b"] = np.concatenate([d["b"], -np.asarray(start["b"])], axis=-2)
        for leaf in LEAVES[name]:
            layers = d[leaf.ours] if target.stack else d[leaf.ours][None]
            for layer, array in enumerate(layers):
                arrays[_key(target, layer, leaf)] = array.T if leaf.transposed else array
    if name == "vera":
        (shared,) = variables["frozen"][SHARED].values()
        arrays |= {theirs: np.asarray(shared[ours]).T for ours, theirs in _PROJECTIONS.items()}
    return config, arrays
