"""The modules of a base that ``adapter_config.json`` names, chosen as PEFT chooses them."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import regex

from tera_jax import json_files
from tera_jax.adapters.base import Adapter
from tera_jax.adapters.factory import make
from tera_jax.adapters.targets import parameter
from tera_jax.io.peft.files import CONFIG
from tera_jax.llama.checkpoint import names
from tera_jax.methods import TargetLayer, method_class

_log = logging.getLogger(__name__)

DEFAULT = ("q_proj", "v_proj")
"""PEFT's targets for every family that this library has."""

_EMBEDDING, _HEAD = "model.embed_tokens", "lm_head"
_OPTIONAL = (
    *(_HEAD, "q_norm", "k_norm"),
    *("input_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
)
"""Modules that a base may lack."""
_SECONDS = 1.0
"""The most that a regular expression may take for one module."""
_PARTIAL = (
    "an adapter here covers all layers of a stack, and with zeros for the others these would be "
    "trained too; merge it in PEFT, and load the merged weights"
)


def module_name(name: str, layer: int, leaf: str = "kernel", fused: bool = False) -> str:
    """That of a torch Llama for a layer of the target of that name; of Phi-3 where ``fused``."""
    tensor = names.TABLE[f"{name}/{leaf}"].hf
    tensor = names.fused_name(tensor) if fused else tensor
    return tensor.removesuffix(".weight").format(layer)


def linear_layers(params: Any) -> dict[tuple[str, ...], TargetLayer]:
    """The linear layers of a base, by path."""
    return {target.path: target for target in _layers(params, "kernel")}


def target_layers(
    path: Path,
    config: Mapping[str, Any],
    params: Any,
    leaf: Literal["kernel", "scale"] = "kernel",
    fused: bool = False,
) -> dict[TargetLayer, list[str]]:
    """The layers that a configuration adapts, each with the names of its modules in torch.

    Args:
        path: of the adapter directory, for errors.
        config: from :func:`tera_jax.io.peft.settings.read`.
        params: the base's.
        leaf: the parameter that is adapted: of linear layers or of norms.
        fused: whether the modules are those of :data:`.names.FUSED`, of which each of ours has
            a part.

    Raises:
        ValueError: when it names none, some layers of a stack alone, the embedding, or a head that
            the base does not have. When it names linear layers and norms are adapted, or fused
            modules and these are not read so. For a pattern that is no regular expression.
    """
    file = path / CONFIG
    found: dict[TargetLayer, list[str]] = {}
    for whole, parts in {}.items() if fused else names.FUSED.items():
        if _names_fused(file, config, whole, parts):
            raise ValueError(
                f"{file} adapts {whole.split('.')[-1]}, which here is "
                f"{', '.join(part.split('.')[-1] for part in parts)}, and an adapter of "
                f"{config.get('peft_type')} of all of them together is not read; merge it in "
                "PEFT, and load the merged weights"
            )
    for target in _layers(params, leaf):
        count = target.stack[0] if target.stack else 1
        modules = [module_name(target.name, layer, leaf, fused) for layer in range(count)]
        chosen = [module for module in modules if _chosen(file, config, module)]
        if chosen and len(chosen) < count:
            raise ValueError(
                f"{file} sets {_reason(config)}, by which {target.path[-1]} is adapted in layers "
                f"{_numbers(chosen)} of {count} alone; {_PARTIAL}"
            )
        if chosen:
            found[target] = modules
    if _chosen(file, config, _EMBEDDING):
        raise ValueError(
            f"{file} adapts {_EMBEDDING}, and adapters of embeddings are not read; merge it in "
            "PEFT, and load the merged weights"
        )
    if _HEAD not in params and _chosen(file, config, _HEAD):
        raise ValueError(
            f"{file} adapts {_HEAD}, which is this base's embedding and has no kernel of its own; "
            "untie them in the base, or train without this target"
        )
    for target in _layers(params, "kernel") if leaf == "scale" else ():
        if _chosen(file, config, module_name(target.name, 0)):
            raise ValueError(
                f"{file} adapts {target.path[-1]}, of which {config['peft_type']} trains a copy, "
                "and copies of norms alone are read; merge it in PEFT, and load the merged weights"
            )
    if not found:
        raise ValueError(
            f"{file} sets target_modules to {json_files.shown(config['target_modules'])}, which "
            "this base does not have; name others, or load the base that it was made for"
        )
    return dict(sorted(found.items(), key=lambda item: item[0].path))


def make_adapter(
    path: Path, name: str, settings: Mapping[str, Any], targets: Iterable[TargetLayer]
) -> Adapter:
    """The adapter of one of our methods on the layers that a configuration names.

    Raises:
        ValueError: where the method refuses its settings or these layers.
    """
    try:
        return make(name, method_class(name)(**settings), tuple(targets))
    except ValueError as error:
        raise ValueError(f"{path / CONFIG} describes no adapter of this base: {error}") from None


def pattern_value(
    file: Path, config: Mapping[str, Any], key: str, module: str, default: Any
) -> Any:
    """What ``rank_pattern`` or ``alpha_pattern`` says of a module: PEFT takes the first that fits.

    Where several fit and differ, a warning in the log says so.
    """
    found = {
        pattern: value
        for pattern, value in (config[key] or {}).items()
        if _search(file, key, rf"(.*\.)?({pattern})$", module, regex.match)
    }
    if len(set(found.values())) > 1:
        first, *others = found
        _log.warning(
            "%s: of %s, %r and %s all name %r; PEFT and this library take the first, %s, and PEFT "
            "sorts them when it saves",
            *(file, key, first, others, module, found[first]),
        )
    return next(iter(found.values()), default)


def _layers(params: Any, leaf: str) -> Iterator[TargetLayer]:
    axes = {"kernel": 2, "scale": 1}[leaf]
    for name in names.TABLE.values():
        *path, own = name.path.split("/")
        if own == leaf and (path[-1] not in _OPTIONAL or _has(params, path)):
            shape = parameter(params, TargetLayer(tuple(path), ()), leaf).shape
            yield TargetLayer(tuple(path), shape[-axes:], shape[:-axes])


def _names_fused(file: Path, config: Mapping[str, Any], whole: str, parts: Sequence[str]) -> bool:
    """Whether a configuration can only mean a module that files of some families fuse."""
    targets = config["target_modules"]
    if isinstance(targets, list | tuple):
        return any(f".{whole}".endswith(f".{target}") for target in targets)
    chosen = [_chosen(file, config, f"model.layers.0.{module}") for module in (whole, *parts)]
    return chosen[0] and not any(chosen[1:])


def _has(params: Any, path: Sequence[str]) -> bool:
    node = params
    for part in path:
        node = node.get(part) if isinstance(node, Mapping) else None
    return node is not None


def _chosen(file: Path, config: Mapping[str, Any], module: str) -> bool:
    """Whether PEFT adapts a module."""
    exclude, saved = config.get("exclude_modules"), config["modules_to_save"] or ()
    if exclude and _named(file, "exclude_modules", exclude, module):
        return False
    if any(f".{module}".endswith(f".{name}") for name in saved):
        return False
    targets = DEFAULT if config["target_modules"] is None else config["target_modules"]
    if targets == "all-linear":
        return module not in (_HEAD, _EMBEDDING)
    if not _named(file, "target_modules", targets, module):
        return False
    layers = config.get("layers_to_transform")
    if isinstance(targets, str) or layers is None or layers == []:
        return True
    patterns = config["layers_pattern"] or (r"[^.]*",)
    number = None
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        expression = rf"(?:^|.*?\.){pattern}\.(?P<number>\d+)\."
        match = _search(file, "layers_pattern", expression, module, regex.match)
        if match:
            number = int(match["number"])
            break
    return number in ([layers] if isinstance(layers, int) else layers)


def _named(file: Path, key: str, patterns: str | Sequence[str], module: str) -> bool:
    """A text is a regular expression; a list has names, or ends of names."""
    if isinstance(patterns, str):
        return bool(_search(file, key, patterns, module, regex.fullmatch))
    return any(f".{module}".endswith(f".{name}") for name in patterns)


def _search(file: Path, key: str, pattern: str, module: str, match: Any) -> Any:
    """A match of ``regex``, which has a limit of time, where Python's own ``re`` takes it too."""
    try:
        re.compile(pattern)
        return match(pattern, module, timeout=_SECONDS)
    except TimeoutError:
        reason = f"which takes more than {_SECONDS:g} s to compare with {module!r}"
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        reason = f"which is no regular expression ({error})"
    raise ValueError(f"{file} has in {key} {pattern[:80]!r}, {reason}; save the adapter again")


def _numbers(modules: Sequence[str]) -> list[int]:
    return [int(part) for module in modules for part in module.split(".") if part.isdigit()]


def _reason(config: Mapping[str, Any]) -> str:
    """The key by which layers are left out, and its value."""
    keys = ("layers_to_transform", "exclude_modules")
    key = next((key for key in keys if config.get(key) not in (None, [])), "target_modules")
    return f"{key} to {json_files.shown(config[key])}"
