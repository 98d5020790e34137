"""Weights of the base that stand in a PEFT adapter's file: its embedding and its head.

PEFT adds copies of them where a target is one of the two (``base_layer.weight``), or where it is
told to. A copy is compared with the base and then left aside. What ``modules_to_save`` trained
takes the place of the base's weight.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax.adapters.targets import parameter
from tera_jax.io.peft.files import ARRAYS, CONFIG, PREFIX
from tera_jax.methods import TargetLayer

_log = logging.getLogger(__name__)

_EMBEDDING, _HEAD = "embed_tokens", "lm_head"
_MODULES = {_EMBEDDING: f"model.{_EMBEDDING}", _HEAD: _HEAD}
_REMEDY = "merge the adapter in PEFT, and load the merged weights"


def take(
    path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], params: Any
) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays without those of the base, and ``params`` with what the adapter brings.

    Args:
        path: of the adapter directory, for errors.
        config: from :func:`tera_jax.io.peft.settings.read`.
        arrays: by PEFT's names; embedding and head are (vocabulary, width) there.
        params: the base's.

    Raises:
        ValueError: when a copy differs from the base; when ``modules_to_save`` names another
            module, one that has no array, or one of another shape; or when it would untie a head
            from its embedding.
    """
    saved = _saved(path, config, arrays, params)
    rest, result = dict(arrays), params
    for module, name in _MODULES.items():
        for key in (f"{PREFIX}{name}.base_layer.weight", f"{PREFIX}{name}.weight"):
            if key not in arrays:
                continue
            array = rest.pop(key)
            base_VD = _weight(params, module)
            if array.shape != base_VD.shape:
                raise ValueError(
                    f"{key} in {path / ARRAYS} has shape {array.shape}, but this base's is "
                    f"{base_VD.shape}; load the base with the vocabulary that it was made for"
                )
            if module in saved and key.endswith(f"{name}.weight"):
                result = _replaced(result, module, array)
            elif not _equal(array, base_VD):
                raise ValueError(
                    f"{key} in {path / ARRAYS} is another than this base's weight; load the base "
                    f"that the adapter was made for, or {_REMEDY}"
                )
    if saved:
        _log.warning("%s brings its own %s in place of the base's", path, " and ".join(saved))
    if saved and _HEAD not in params:
        _require_tied(path, saved, arrays)
    return rest, result


def _saved(
    path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], params: Any
) -> tuple[str, ...]:
    """The modules of ``modules_to_save``, by our names."""
    saved = []
    for given in config["modules_to_save"] or ():
        module = given.removeprefix("model.")
        if given not in (module, _MODULES.get(module)) or module not in _MODULES:
            raise ValueError(
                f"{path / CONFIG} sets modules_to_save to {config['modules_to_save']!r}, and "
                f"{given!r} is none of {list(_MODULES)}; {_REMEDY}"
            )
        key = f"{PREFIX}{_MODULES[module]}.weight"
        if key not in arrays:
            raise ValueError(f"{path / ARRAYS} lacks the array {key}; save the adapter again")
        saved.append(module)
    if saved and config.get("ensure_weight_tying") and _HEAD not in params:
        saved = list(_MODULES)  # PEFT trains and saves both as one
    return tuple(dict.fromkeys(saved))


def _weight(params: Any, module: str) -> jax.Array:
    """(vocabulary, width); a tied head is the embedding."""
    if module == _HEAD and _HEAD in params:
        return parameter(params, TargetLayer((_HEAD,), ()), "kernel").T
    return parameter(params, TargetLayer((_EMBEDDING,), ()), "embedding")


def _replaced(params: Any, module: str, array: np.ndarray) -> Any:
    """``params`` with another weight, in the type and the layout of the base's."""
    if module == _HEAD and _HEAD not in params:
        return params  # it is the embedding, which is replaced by its own array
    leaf = "kernel" if module == _HEAD else "embedding"
    base = params[module][leaf]
    array = array.T if module == _HEAD else array
    placed = jax.device_put(jnp.asarray(array, base.dtype), base.sharding)
    return {**params, module: {**params[module], leaf: placed}}


def _require_tied(path: Path, saved: tuple[str, ...], arrays: Mapping[str, np.ndarray]) -> None:
    """Of a tied base both are saved, and are the same: one alone, or two, would untie them."""
    both = [arrays.get(f"{PREFIX}{name}.weight") for name in _MODULES.values()]
    embedding, head = both
    if len(saved) < 2 or embedding is None or head is None or not np.array_equal(embedding, head):
        raise ValueError(
            f"{path / CONFIG} sets modules_to_save to {list(saved)}, which unties the head from "
            "the embedding, and this base ties them; train it in PEFT with ensure_weight_tying, "
            "or untie the base"
        )


def _equal(array: np.ndarray, base_VD: jax.Array) -> bool:
    """Whether they are the same in the narrower of their types."""
    found_VD = jnp.asarray(array)
    return any(
        bool(jnp.array_equal(found_VD.astype(dtype), base_VD.astype(dtype)))
        for dtype in (found_VD.dtype, base_VD.dtype)
    )
