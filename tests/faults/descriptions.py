"""The fault of a changed ``adapter.json``, in an adapter of every method."""

import functools
import json
import random
import string
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from tera_jax import adapt, load_adapter, save_adapter
from tera_jax.llama import load_pretrained
from tera_jax.methods import TABLE
from tests import parts
from tests.faults.faults import refused
from tests.faults.scene import Scene


def changed_description(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """A field of ``adapter.json`` has another value, or a character of it is another."""
    params, adapters = _adapters(scene.directory)
    for directory in adapters.values():
        file = directory / "adapter.json"
        text = file.read_text()
        try:
            file.write_text(_other_value(text, rng))
            refused(lambda: load_adapter(directory, params), "adapter.json")  # noqa: B023
            changed = _other_character(text, rng)
            file.write_text(changed)
            if not _is_same(text, changed):
                refused(lambda: load_adapter(directory, params), "adapter.json")  # noqa: B023
        finally:
            file.write_text(text)


@functools.cache
def _adapters(directory: Path) -> tuple[Any, dict[str, Path]]:
    """A base, and an adapter of each method on it."""
    config = json.loads((directory / "config.json").read_text())
    model, params = load_pretrained(config["model"]["path"], jnp.float32)
    found = {}
    for name in TABLE:
        config = TABLE[name](**parts.SMALL_METHODS[name])
        adapter = adapt(model, jnp.zeros((1, 2), jnp.int32), method=name, config=config)
        frozen = adapter.init_frozen(params)
        d = adapter.init_d(params, frozen)
        found[name] = directory / "adapters" / name
        save_adapter(found[name], adapter, {"params": params, "frozen": frozen, "d": d}, "base")
    return params, found


def _other_value(text: str, rng: random.Random) -> str:
    description = json.loads(text)
    place, key = rng.choice([*_values(description)])
    value = place[key]
    if isinstance(value, bool):
        place[key] = not value
    elif isinstance(value, int | float):
        place[key] = value * 10 + 1
    elif isinstance(value, str):
        place[key] = value + "0"
    else:
        place[key] = 1
    return json.dumps(description)


def _values(tree: Any) -> Any:
    """Each value that is no object or list, or an empty one, by what holds it and its key."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict | list) and value:
            yield from _values(value)
        else:
            yield tree, key


def _other_character(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text))
    return text[:at] + rng.choice(string.printable) + text[at + 1 :]


def _is_same(text: str, changed: str) -> bool:
    try:
        return json.loads(text) == json.loads(changed)
    except ValueError:
        return False
