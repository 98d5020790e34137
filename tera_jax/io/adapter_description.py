"""``adapter.json``: what an adapter directory says of its arrays. Version 2, and version 1 read.

The description holds the method, its configuration with the frozen seed, the adapted layers, the
fingerprints of the frozen network and of the base, and the checksums of the arrays' files. Its own
``checksum`` covers all of it. A layer's ``config`` has room for fields of the method that are that
layer's own; no method has such fields yet.
"""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tera_jax import json_files
from tera_jax.adapters.base import Adapter
from tera_jax.adapters.factory import make
from tera_jax.atomic import write_json
from tera_jax.json_files import Key
from tera_jax.methods import TABLE, TargetLayer
from tera_jax.methods.base import LinearMethod

FORMAT = "tera-jax-adapter"
VERSION = 2
FILE = "adapter.json"
_REMEDY = "write it again"

_SIZES = Key(list[int], least=1, below=2**31)
_ARRAYS = {"arrays": Key(dict[str, str]), "checksum": Key(str)}
_KEYS = {
    "format": Key(Literal["tera-jax-adapter"]),
    "version": Key(Literal[1, 2]),
    "method": Key(str),
    "config": Key(dict),
    "layers": Key(list[dict]),
    "frozen_fingerprint": Key(str),
    "base": Key(dict),
    "transforms": Key(dict[str, list[int]], {}),
}
_LAYER = {"path": Key(list[str]), "kernel_shape": _SIZES, "stack": _SIZES, "config": Key(dict, {})}
_BASE = {"name": Key(str), "fingerprint": Key(str)}
_STRUCTURES = {
    ("dense", "dense"): "dense",
    ("fast", "dense"): "hadamard_factor",
    ("fast", "fast"): "hadamard",
}
"""By version 1's (wide, core)."""
_OLD_FIELDS = {"parts": "num_modes", "zero": "zero_init_mode"}
"""Fields of version 1 and their names today."""


def describe(
    adapter: Adapter, frozen_fingerprint: str, base: Mapping[str, str], arrays: Mapping[str, str]
) -> dict[str, Any]:
    """The description of an adapter.

    Args:
        adapter: whose method and layers it has.
        frozen_fingerprint: of the ``frozen`` collection.
        base: ``name`` and ``fingerprint`` of the base.
        arrays: the checksum of each file of arrays.
    """
    description = {
        "format": FORMAT,
        "version": VERSION,
        "method": adapter.name,
        "config": dataclasses.asdict(adapter.method),
        "layers": [
            {
                "path": layer.path,
                "kernel_shape": layer.kernel_shape,
                "stack": layer.stack,
                "config": {},
            }
            for layer in adapter.layers
        ],
        "frozen_fingerprint": frozen_fingerprint,
        "base": dict(base),
        "arrays": dict(arrays),
    }
    if transforms := _transforms(adapter):
        description["transforms"] = transforms
    return {**description, "checksum": _checksum(description)}


def _transforms(adapter: Adapter) -> dict[str, list[int]]:
    """:meth:`.LinearMethod.transform_sizes` of all layers."""
    if not isinstance(adapter.method, LinearMethod):
        return {}
    each = (adapter.method.transform_sizes(layer) for layer in adapter.layers)
    return {str(size): [*split] for found in each for size, split in found.items()}


def _checksum(description: Mapping[str, Any]) -> str:
    """SHA-256 of the description as JSON, without the checksum, whatever the order of its keys."""
    rest = {key: value for key, value in description.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(path: Path, description: Mapping[str, Any]) -> None:
    """Write ``adapter.json`` into a directory."""
    write_json(path / FILE, description)


def read(directory: Path) -> tuple[Adapter, dict[str, Any]]:
    """The adapter that a directory describes, and the description.

    Raises:
        FileNotFoundError: when there is no description.
        ValueError: when it is not of this format, was changed, or lacks a key or has one too many
            or of another type.
    """
    path = directory / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a directory written by train.export")
    description = json_files.read(path, remedy=_REMEDY)
    found = (description.get("format"), description.get("version"))
    if not _KEYS["format"].takes(found[0]) or not _KEYS["version"].takes(found[1]):
        raise ValueError(
            f"{path} has format and version {json_files.shown(found)}, but this library reads "
            f"{FORMAT!r} of the versions 1 and {VERSION}; load it with the version that wrote it"
        )
    if found[1] == VERSION and description.get("checksum") != _checksum(description):
        raise ValueError(f"{path} was changed (its checksum is another); {_REMEDY}")
    table = _KEYS | (_ARRAYS if found[1] == VERSION else {})
    description = json_files.typed(path, description, table, remedy=_REMEDY)
    json_files.typed(path, description["base"], _BASE, within="base.", remedy=_REMEDY)
    if found[1] == 1:
        description = _from_version_1(path, description)
    return adapter_of(path, description), description


def adapter_of(path: Path, description: Mapping[str, Any]) -> Adapter:
    """The adapter of a description's method, config and layers.

    Args:
        path: of its file, for errors.
        description: whose keys have their types.

    Raises:
        ValueError: when the method or its configuration is none of this library's, or a transform
            of its frozen network is another one here.
    """
    name = description["method"]
    row = TABLE.get(name)
    if row is None:
        raise ValueError(
            f"{path} is of method {json_files.shown(name)}, not of {list(TABLE)}; load it with the "
            "version that wrote it"
        )
    hints = typing.get_type_hints(row)
    fields = {
        field.name: Key(hints[field.name], field.default) for field in dataclasses.fields(row)
    }
    settings = json_files.typed(
        path, description["config"], fields, within="config.", remedy=_REMEDY
    )
    layers = [_layer(path, layer) for layer in description["layers"]]
    try:
        method = row(**{key: _tuples(value) for key, value in settings.items()})
        adapter = make(name, method, layers)
    except ValueError as error:
        raise ValueError(f"{path} describes no adapter: {error}") from None
    here, there = _transforms(adapter), description.get("transforms", {})
    if here != there:
        raise ValueError(
            f"{path} has the transforms {there or 'of an earlier version'}, but this version makes "
            f"{here} of the same sizes; load it with the version that wrote it"
        )
    return adapter


def _layer(path: Path, layer: Mapping[str, Any]) -> TargetLayer:
    found = json_files.typed(path, layer, _LAYER, within="layers.", remedy=_REMEDY)
    if found["config"]:
        raise ValueError(
            f"{path} has a configuration for layer {found['path']}, which this version lacks; load "
            "it with the version that wrote it"
        )
    names, kernel_shape, stack = (tuple(found[key]) for key in ("path", "kernel_shape", "stack"))
    return TargetLayer(names, kernel_shape, stack)


def _from_version_1(path: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """The same under today's names."""
    config = {_OLD_FIELDS.get(key, key): value for key, value in description["config"].items()}
    if len(config) < len(description["config"]):
        raise ValueError(
            f"{path} has fields under their old and new names {_OLD_FIELDS}; {_REMEDY}"
        )
    if "wide" in config or "core" in config:
        choice = (config.pop("wide", "dense"), config.pop("core", "dense"))
        if not all(isinstance(each, str) for each in choice) or choice not in _STRUCTURES:
            raise ValueError(
                f"{path} has wide and core {choice}, which are read together as one of "
                f"{list(_STRUCTURES)}; merge it with the version that wrote it"
            )
        config["structure"] = _STRUCTURES[choice]
    return {**description, "config": config, "arrays": {}}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
