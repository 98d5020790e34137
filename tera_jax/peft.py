"""Adapter directories of Hugging Face PEFT, read and written.

Read and written: LoRA, DoRA, VeRA, HiRA, prompt tuning and P-tuning on the Llama family. PiSSA is
read from a PiSSA adapter and written as a LoRA of twice the rank on the unchanged base, which is
the same update. Of P-tuning PEFT saves only the finished prompt, so it is read as a prompt.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tera_jax.adaptation import make
from tera_jax.adapter import Adapter
from tera_jax.frozen import SHARED
from tera_jax.llama import names
from tera_jax.methods import METHODS, Site
from tera_jax.methods.prompt import encode
from tera_jax.sites import get, put

CONFIG = "adapter_config.json"
_ARRAYS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PROMPT = "prompt_embeddings"
_PROJECTIONS = {"a": "base_model.vera_A", "b": "base_model.vera_B"}


class _Leaf(NamedTuple):
    """One trainable array of a layer: its name here, what follows the module's name in PEFT."""

    ours: str
    theirs: str
    transposed: bool


_LORA = (_Leaf("a", "lora_A.weight", True), _Leaf("b", "lora_B.weight", True))
_LEAVES: dict[str, tuple[_Leaf, ...]] = {
    "lora": _LORA,
    "pissa": _LORA,
    "dora": (*_LORA, _Leaf("m", "lora_magnitude_vector", False)),
    "hira": (_Leaf("a", "hira_A", True), _Leaf("b", "hira_B", True)),
    "vera": (
        _Leaf("lambda_d", "vera_lambda_d", False),
        _Leaf("lambda_b", "vera_lambda_b", False),
    ),
}


def load(directory: str | os.PathLike[str], params: Any) -> tuple[Adapter, dict[str, Any]]:
    """Read a PEFT adapter and apply it to a base.

    Args:
        directory: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        params: the ``params`` collection of a :class:`tera_jax.llama.Llama`.

    Returns:
        The adapter, and the variables ``params``, ``frozen`` and ``d``.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: for a method or a setting that is not read, for a missing or an extra array,
            for an array of another shape, or when the base is not the one of a PiSSA adapter.
    """
    path = Path(directory)
    config, arrays = _read(path)
    if _PROMPT in arrays:
        return _load_prompt(path, config, arrays, params)
    name, settings = _settings(path, config)
    pattern = re.compile(
        rf"{re.escape(_PREFIX)}(.+)\.({'|'.join(re.escape(leaf.theirs) for leaf in _LEAVES[name])})"
    )
    matches: dict[str, re.Match[str]] = {
        key: match for key in arrays if (match := pattern.fullmatch(key))
    }
    extra = set(arrays) - set(matches) - (set(_PROJECTIONS.values()) if name == "vera" else set())
    if extra:
        raise ValueError(f"{path / _ARRAYS} has arrays {sorted(extra)} that {name} does not have")
    modules = {match[1] for match in matches.values()}
    sites = _sites(path, modules, params)
    adapter = make(name, METHODS[name].config(**settings), sites)
    frozen = (
        _projections(path, arrays, adapter)
        if name == "vera"
        else jax.jit(adapter.init_frozen)(params)
    )
    shapes = jax.eval_shape(adapter.init_d, params, frozen)
    d: dict[str, Any] = {}
    for site in sites:
        like = get(shapes, (*site.path, name))
        put(
            d,
            (*site.path, name),
            {
                leaf.ours: _stacked(path, arrays, site, leaf, like[leaf.ours].shape)
                for leaf in _LEAVES[name]
            },
        )
    if name == "pissa":
        _require_pissa_base(path, adapter, d, frozen)
    return adapter, {"params": params, "frozen": frozen, "d": d}


def save(
    directory: str | os.PathLike[str],
    adapter: Adapter,
    variables: Mapping[str, Any],
    base_name: str,
) -> None:
    """Write a PEFT adapter directory.

    Args:
        directory: to write into; it exists.
        adapter: of a method that PEFT has.
        variables: ``params``, ``frozen`` and ``d``.
        base_name: what PEFT is to load as the base.

    Raises:
        ValueError: for a method that PEFT does not have.
    """
    if adapter.name in ("prompt", "p_tuning"):
        config, arrays = _prompt_files(adapter, variables)
    elif adapter.name in _LEAVES:
        config, arrays = _kernel_files(adapter, variables)
    else:
        raise ValueError(
            f"PEFT has no method {adapter.name!r}, only {[*_LEAVES, 'prompt', 'p_tuning']}; "
            "export the adapter in our format, or merged weights"
        )
    common = {
        "base_model_name_or_path": base_name,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
    }
    path = Path(directory)
    (path / CONFIG).write_text(json.dumps({**common, **config}, indent=2) + "\n")
    contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    save_file(contiguous, path / _ARRAYS, metadata={"format": "pt"})


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    for file in (CONFIG, _ARRAYS):
        if not (path / file).is_file():
            raise FileNotFoundError(f"{path / file} does not exist; name a PEFT adapter directory")
    try:
        return json.loads((path / CONFIG).read_text()), load_file(path / _ARRAYS)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); save the adapter again") from None


def _settings(path: Path, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our method and its settings. What PEFT knows and this does not is refused by name."""
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
    raise ValueError(f"{path / CONFIG} is of type {kind!r}; read are LORA, HIRA, VERA and prompts")


def _sites(path: Path, modules: set[str], params: Any) -> tuple[Site, ...]:
    """The layers of the Llama whose modules, for all layers of the stack, PEFT names."""
    sites: list[Site] = []
    known: set[str] = set()
    for name in names.TABLE.values():
        *site_path, leaf = name.path.split("/")
        stacked = name.hf.removesuffix(".weight").format(0) in modules
        if leaf != "kernel" or not stacked:
            continue
        kernel = get(params, (*site_path, "kernel"))
        stack = kernel.shape[:-2]
        theirs = {
            name.hf.removesuffix(".weight").format(i) for i in range(stack[0] if stack else 1)
        }
        if theirs - modules:
            raise ValueError(
                f"{path / _ARRAYS} lacks arrays of {sorted(theirs - modules)[0]!r}; an adapter "
                "covers all layers of the base, and this base may be another"
            )
        known |= theirs
        sites.append(Site(tuple(site_path), kernel.shape[-2:], stack))
    if modules - known or not sites:
        raise ValueError(
            f"{path / _ARRAYS} adapts {sorted(modules - known)[:3]}, which this base does not have"
        )
    return tuple(sorted(sites, key=lambda site: site.path))


def _key(site: Site, layer: int, leaf: _Leaf) -> str:
    module = names.TABLE[f"{site.name}/kernel"].hf.removesuffix(".weight")
    return f"{_PREFIX}{module.format(layer)}.{leaf.theirs}"


def _stacked(
    path: Path, arrays: Mapping[str, np.ndarray], site: Site, leaf: _Leaf, shape: tuple[int, ...]
) -> jax.Array:
    layers = []
    for layer in range(site.stack[0] if site.stack else 1):
        key = _key(site, layer, leaf)
        if key not in arrays:
            raise ValueError(f"{path / _ARRAYS} lacks the array {key}; save the adapter again")
        layers.append(arrays[key].T if leaf.transposed else arrays[key])
        one = shape[len(site.stack) :]
        if layers[-1].shape != one:
            raise ValueError(
                f"{key} in {path / _ARRAYS} has shape {arrays[key].shape}, which does not fit the "
                f"rank and the kernel {site.kernel_shape} of this base"
            )
    stacked = np.stack(layers).astype(np.float32)
    return jnp.asarray(stacked.reshape(shape))


def _projections(path: Path, arrays: Mapping[str, np.ndarray], adapter: Adapter) -> dict[str, Any]:
    if not set(_PROJECTIONS.values()) <= set(arrays):
        raise ValueError(
            f"{path / _ARRAYS} lacks VeRA's projections, which come from torch's generator; save "
            "it in PEFT with save_projection=True"
        )
    shared = {
        ours: jnp.asarray(arrays[theirs].T.astype(np.float32))
        for ours, theirs in _PROJECTIONS.items()
    }
    method = METHODS["vera"].method(adapter.config, adapter.sites)
    return {SHARED: {method.frozen_set(adapter.sites[0]): shared}}


def _require_pissa_base(path: Path, adapter: Adapter, d: Any, frozen: Any) -> None:
    """Training moves A B by less than its own size; another base's principal part is further."""

    def inner(x: Any, y: Any) -> jax.Array:  # of A B and A' B', without forming them
        left = jnp.einsum("...ir,...is->...rs", x["a"], y["a"])
        right = jnp.einsum("...ro,...so->...rs", x["b"], y["b"])
        return jnp.sum(left * right, axis=(-2, -1))

    for site in adapter.sites:
        found, start = (get(tree, (*site.path, "pissa")) for tree in (d, frozen))
        moved = inner(found, found) - 2 * inner(found, start) + inner(start, start)
        if jnp.any(moved > inner(start, start)):
            raise ValueError(
                f"A and B of {site.name!r} in {path} are not near the principal part of this "
                "base's kernels: the base was changed already (PiSSA's residual?), or is another"
            )


def _load_prompt(
    path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], params: Any
) -> tuple[Adapter, dict[str, Any]]:
    extra = set(arrays) - {_PROMPT}
    if extra:
        raise ValueError(f"{path / _ARRAYS} has arrays {sorted(extra)} that a prompt does not have")
    prompt_PD = arrays[_PROMPT].astype(np.float32)
    embedding_VD = params["embed_tokens"]["embedding"]
    expected = (config["num_virtual_tokens"], embedding_VD.shape[1])
    if prompt_PD.shape != expected:
        raise ValueError(f"{_PROMPT} in {path} has shape {prompt_PD.shape}, not {expected}")
    site = Site(("embed_tokens",), embedding_VD.shape)
    settings = METHODS["prompt"].config(num_virtual_tokens=expected[0])
    adapter = make("prompt", settings, (site,))
    d = {"embed_tokens": {"prompt": {"embedding": jnp.asarray(prompt_PD)}}}
    return adapter, {"params": params, "frozen": {}, "d": d}


def _prompt_files(
    adapter: Adapter, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    (site,) = adapter.sites
    d = get(variables["d"], (*site.path, adapter.name))
    prompt_PD = np.asarray(d["embedding"] if adapter.name == "prompt" else encode(d))
    config = {
        "num_virtual_tokens": prompt_PD.shape[0],
        "token_dim": prompt_PD.shape[1],
        "num_transformer_submodules": 1,
    }
    if adapter.name == "prompt":
        return {"peft_type": "PROMPT_TUNING", **config}, {_PROMPT: prompt_PD}
    hidden = d["mlp"][0]["kernel"].shape[1]
    return {"peft_type": "P_TUNING", "encoder_hidden_size": hidden, **config}, {_PROMPT: prompt_PD}


def _kernel_files(
    adapter: Adapter, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    name, settings = adapter.name, adapter.config
    config: dict[str, Any] = {
        "r": settings.rank,
        "target_modules": sorted({site.path[-1] for site in adapter.sites}),
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
    for site in adapter.sites:
        d = {k: np.asarray(v) for k, v in get(variables["d"], (*site.path, name)).items()}
        if name == "pissa":  # s (A B - A0 B0) = s [A A0] [B; -B0]
            start = get(variables["frozen"], (*site.path, name))
            d["a"] = np.concatenate([d["a"], np.asarray(start["a"])], axis=-1)
            d["b"] = np.concatenate([d["b"], -np.asarray(start["b"])], axis=-2)
        for leaf in _LEAVES[name]:
            layers = d[leaf.ours] if site.stack else d[leaf.ours][None]
            for layer, array in enumerate(layers):
                arrays[_key(site, layer, leaf)] = array.T if leaf.transposed else array
    if name == "vera":
        (shared,) = variables["frozen"][SHARED].values()
        arrays |= {theirs: np.asarray(shared[ours]).T for ours, theirs in _PROJECTIONS.items()}
    return config, arrays
