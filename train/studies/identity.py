"""What the results of a study belong to: ``study.json`` beside them.

Methods, tasks, seeds and rates may be added to a study. What a run that is there depends on may not
change: the base, the records, and the settings of a run.
"""

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tera_jax import __version__, atomic, json_files
from tera_jax.json_files import Key

from ..config import DataConfig, LoopConfig, ModelConfig, OptimConfig, differences, to_json
from . import variants
from .parts import Parts
from .schema import Study

FILE = "study.json"
VERSION = 1
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_OBJECT = Key(dict[str, Any])
_KEYS = {
    "version": Key(int),
    "command": Key(str),
    "programs": Key(dict[str, str]),
    "model": Key(str),
    "base": Key(str),
    "settings": _OBJECT,
    "tasks": _OBJECT,
    "methods": _OBJECT,
    "baseline": Key(str | None),
    "seeds": Key(int, least=1),
}
_REMEDY = "choose another --output"
_DEFAULTS: dict[str, dict[str, Any]] = {
    "model": json.loads(json.dumps(dataclasses.asdict(ModelConfig("")))),
    "data": json.loads(json.dumps(dataclasses.asdict(DataConfig("")))),
    "optim": json.loads(json.dumps(dataclasses.asdict(OptimConfig()))),
    "loop": json.loads(json.dumps(dataclasses.asdict(LoopConfig()))),
}
"""Of the sections of a run."""


def identity(study: Study, parts: Mapping[str, Parts], command: str) -> dict[str, Any]:
    """What is written of a study; the fingerprint of its base is still empty.

    Args:
        study: to be run.
        parts: of each task, by name.
        command: that runs it.
    """
    config = study.config
    trees = {task.name: to_json(study.run(variants.PLAIN, task)) for task in config.tasks}
    model = dict(next(iter(trees.values()))["model"])
    path = model.pop("path")
    methods = {}
    for each in study.variants:
        tree = to_json(study.run(each, config.tasks[0]))
        optim = {name: value for name, value in tree["optim"].items() if name != "learning_rate"}
        loop = {name: tree["loop"][name] for name in ("batch_size", "grad_accum_steps")}
        methods[each.name] = {"method": tree["method"], "optim": optim, "loop": loop}
    own = ("path", "validation_path", "validation_rows", "split_seed")
    tasks = {
        name: {
            "records": parts[name].identities(),
            "data": {field: value for field, value in tree["data"].items() if field not in own},
        }
        for name, tree in trees.items()
    }
    return {
        "version": VERSION,
        "command": command,
        "programs": programs(),
        "model": path,
        "base": "",
        "settings": {"steps": config.steps, "search_steps": config.short, "model": model},
        "tasks": tasks,
        "methods": methods,
        "baseline": config.baseline,
        "seeds": config.seeds,
    }


def programs() -> dict[str, str]:
    """Versions of what computes."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "tera_jax": __version__, **found}


def read(output: Path) -> dict[str, Any] | None:
    """What is written in a directory; None where there is nothing.

    Raises:
        ValueError: when the file is damaged, or of another version.
    """
    file = output / FILE
    if not file.is_file():
        return None
    found = json_files.typed(file, json_files.read(file, remedy=_REMEDY), _KEYS, remedy=_REMEDY)
    if found["version"] != VERSION:
        raise ValueError(f"{file} is of version {found['version']}, not {VERSION}; {_REMEDY}")
    return found


def merged(output: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """A study with the tasks and methods that its directory has already.

    Raises:
        FileExistsError: when the directory's results belong to other settings, records or another
            base; the error lists what differs.
        ValueError: as :func:`read`.
    """
    saved = read(output)
    if saved is None:
        return dict(given)
    rows = differences(saved["settings"], _known(saved["settings"], given["settings"]), "study")
    for kind in ("tasks", "methods"):
        for name in saved[kind].keys() & given[kind].keys():
            there, here = saved[kind][name], given[kind][name]
            rows += differences(there, _known(there, here), f"{kind}.{name}")
    if saved["base"] and given["base"]:
        rows += differences(saved["base"], given["base"], "base")
    if rows:
        raise FileExistsError(
            f"{output} holds results of other runs: {'; '.join(rows)}. Give these again, or "
            f"{_REMEDY}"
        )
    both = {kind: {**saved[kind], **given[kind]} for kind in ("tasks", "methods")}
    return {**given, **both, "base": given["base"] or saved["base"]}


def _known(saved: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` without fields of the configuration that are newer than ``saved``, at a default."""
    result = dict(given)
    for section, defaults in _DEFAULTS.items():
        if isinstance(saved.get(section), Mapping) and isinstance(given.get(section), Mapping):
            result[section] = {
                name: value
                for name, value in given[section].items()
                if name in saved[section] or name not in defaults or value != defaults[name]
            }
    return result


def write(output: Path, content: Mapping[str, Any]) -> None:
    """Write what :func:`merged` gave."""
    atomic.write_json(output / FILE, dict(content))
