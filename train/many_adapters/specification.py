"""Which adapters a run trains: a file with an object a line, or a directory of records."""

import copy
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tera_jax import json_files
from tera_jax.json_files import Key

from ..config import Config, parse
from ..config.names import require_known
from ..config.schema import keys

_FIELDS = {
    "data": ("data", "path"),
    "validation": ("data", "validation_path"),
    "learning_rate": ("optim", "learning_rate"),
    "warmup_steps": ("optim", "warmup_steps"),
    "steps": ("loop", "steps"),
    "epochs": ("loop", "epochs"),
    "seed": ("loop", "seed"),
}
"""Key of a line -> section and field of the configuration."""
_SECTIONS = ("optim", "loop", "data", "model", "evaluate", "mesh")
"""In which a field that may not differ is looked up, in this order."""
_INITIAL = {
    "tera": ("zero_init_mode",),
    "tera_iden": ("zero_init_mode",),
    "tera_unique": ("zero_init_mode",),
    "vera": ("d_initial",),
    "unilora": ("init_bound",),
    "unires": ("init_bound",),
    "prompt": ("init",),
}
"""Fields of a method that the first d alone follows from, so that adapters may differ in them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")
"""Files of a directory that ``datasets`` saved."""


@dataclasses.dataclass(frozen=True)
class Specification:
    """One adapter of the run.

    Attributes:
        name: of its directory too.
        fields: what its line says beside the name.
        config: of the run that would train it alone.
        where: how errors name it.
    """

    name: str
    fields: dict[str, Any]
    config: Config
    where: str


def read(path: Path, base: Mapping[str, Any]) -> list[Specification]:
    """The adapters that a file or a directory names, in its order.

    Args:
        path: a JSONL file, or a directory whose files are the records of one adapter each.
        base: the configuration that all inherit, as plain values.

    Raises:
        FileNotFoundError: when there is nothing at the path.
        ValueError: for no adapters, a name that is taken or no name of a directory, a field that
            adapters cannot differ in, or a value that a configuration refuses. It names the line.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; --adapters names a JSONL file or a directory of records"
        )
    rows = _of_directory(path) if path.is_dir() else _of_file(path)
    found: dict[str, Specification] = {}
    for where, row in rows:
        each = _specification(where, row, base)
        taken = found.setdefault(each.name.casefold(), each)
        if taken is not each:
            raise ValueError(
                f"{where} is named {each.name!r}, as {taken.where} is; give each a name of its own"
            )
    if not found:
        raise ValueError(f"{path} names no adapters; give at least one")
    return [*found.values()]


def _of_file(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place and object."""
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, json_files.parse(line, where, "write one object a line")


def _of_directory(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each entry's place, and an object with its name and path."""
    saved = next((name for name in _SAVED if (path / name).is_file()), None)
    if saved is not None:
        raise ValueError(
            f"{path} is one data set ({saved}); give a directory with a file for each adapter"
        )
    for entry in sorted(path.iterdir()):
        if not entry.name.startswith("."):
            yield str(entry), {"name": entry.stem, "data": str(entry)}


def _specification(where: str, row: dict[str, Any], base: Mapping[str, Any]) -> Specification:
    """One adapter; see :func:`read`."""
    texts = {"name": Key(str), "data": Key(str)}
    json_files.typed(where, row, texts, "ignore", remedy="give each adapter a name and its data")
    name, fields = row["name"], {key: value for key, value in row.items() if key != "name"}
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{where} is named {name!r}, but its directory has that name; use letters, digits, "
            "'.', '_' and '-', up to 100, a letter or digit first"
        )
    if {"steps", "epochs"} <= fields.keys():
        raise ValueError(f"{where} has both steps and epochs; leave one out")
    tree = copy.deepcopy(dict(base))
    method = tree["method"]["name"]
    for key, value in fields.items():
        if key in _INITIAL.get(method, ()):
            tree["method"][key] = value
        elif key in _FIELDS:
            section, field = _FIELDS[key]
            tree[section][field] = value
        else:
            raise ValueError(f"{where} has {key!r}: {_refusal(key, method)}")
    if "epochs" in fields:
        tree["loop"]["steps"] = None
    try:
        return Specification(name, fields, parse(tree), where)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _refusal(key: str, method: str) -> str:
    """Why a key may not stand in a line, and what to do."""
    known = keys(method)
    places = [f"config.{section}.{key}" for section in _SECTIONS]
    places = [place for place in places if place in known]
    if f"config.method.{key}" in known:
        return (
            f"the frozen arrays, the shapes or the product of {method} follow from it, and all "
            f"adapters of a run share them; set it for all with --config.method.{key}"
        )
    if places:
        return f"adapters of a run do not differ in it; set it for all with --{places[0]}"
    mine = {"name", *_FIELDS, *_INITIAL.get(method, ())}
    try:
        require_known(f"adapter.{key}", {f"adapter.{name}" for name in mine})
    except ValueError as error:
        return str(error).replace("config key adapter.", "field ").replace("adapter.", "")
    raise AssertionError(key)


def as_saved(found: Iterable[Specification]) -> dict[str, dict[str, Any]]:
    """The fields of each adapter by its name, as JSON holds them."""
    return {each.name: each.fields for each in found}
