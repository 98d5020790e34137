"""``adapter.json``: what an adapter directory says of its arrays. Version 2, and version 1 read.

The description holds the method, its configuration with the frozen seed, the adapted layers, the
fingerprints of the frozen network and of the base, and the checksums of the arrays' files. Its own
``checksum`` covers all of it. A layer's ``config`` has room for fields of the method that are that
layer's own; no method has such fields yet.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.factory import make
from tera_jax.methods import TABLE, TargetLayer

FORMAT = "tera-jax-adapter"
VERSION = 2
FILE = "adapter.json"

_KEYS = ("format", "version", "method", "config", "layers", "frozen_fingerprint", "base")
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
    return {**description, "checksum": _checksum(description)}


def _checksum(description: Mapping[str, Any]) -> str:
    """SHA-256 of the description as JSON, without the checksum, whatever the order of its keys."""
    rest = {key: value for key, value in description.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(path: Path, description: Mapping[str, Any]) -> None:
    """Write ``adapter.json`` into a directory."""
    (path / FILE).write_text(json.dumps(description, indent=2) + "\n")


def read(directory: Path) -> tuple[Adapter, dict[str, Any]]:
    """The adapter that a directory describes, and the description.

    Raises:
        FileNotFoundError: when there is no description.
        ValueError: when it is not of this format, or was changed.
    """
    path = directory / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a directory written by train.export")
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); write it again") from None
    if not isinstance(description, dict):
        raise ValueError(f"{path} holds no JSON object; write it again")
    found = (description.get("format"), description.get("version"))
    if found not in ((FORMAT, 1), (FORMAT, VERSION)):
        raise ValueError(
            f"{path} has format and version {found}, but this library reads {FORMAT!r} of the "
            f"versions 1 and {VERSION}"
        )
    missing = [key for key in _KEYS if key not in description]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; write it again")
    if found[1] == 1:
        description = _from_version_1(path, description)
    elif description.get("checksum") != _checksum(description):
        raise ValueError(f"{path} was changed (its checksum is another); write it again")
    return _adapter(path, description), description


def _adapter(path: Path, description: Mapping[str, Any]) -> Adapter:
    name = description["method"]
    row = TABLE.get(name)
    if row is None:
        raise ValueError(f"{path} is of method {name!r}, not of {list(TABLE)}")
    own = [layer["path"] for layer in description["layers"] if layer.get("config")]
    if own:
        raise ValueError(f"{path} has a configuration for layer {own[0]}, which this version lacks")
    try:
        method = row(**{key: _tuples(value) for key, value in description["config"].items()})
    except TypeError as error:
        raise ValueError(f"{path}: {error}; write it with this version") from None
    layers = [
        TargetLayer(*(_tuples(layer[key]) for key in ("path", "kernel_shape", "stack")))
        for layer in description["layers"]
    ]
    return make(name, method, layers)


def _from_version_1(path: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """The same under today's names."""
    config = {_OLD_FIELDS.get(key, key): value for key, value in description["config"].items()}
    if "wide" in config or "core" in config:
        choice = (config.pop("wide", "dense"), config.pop("core", "dense"))
        if choice not in _STRUCTURES:
            raise ValueError(
                f"{path} has wide and core {choice}, which are read together as one of "
                f"{list(_STRUCTURES)}; merge it with the version that wrote it"
            )
        config["structure"] = _STRUCTURES[choice]
    return {**description, "config": config, "arrays": {}}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
