"""The adapter that a run starts from: ``config.model.adapter``, ours or PEFT's.

Its d is taken over to the bit. Method, adapted layers, frozen network and base must be those of the
run. The optimizer starts anew.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tera_jax import trees
from tera_jax.adapters.base import Adapter
from tera_jax.disk import load_arrays
from tera_jax.fingerprint import base_fingerprint, fingerprint
from tera_jax.io import adapter_description, peft
from tera_jax.io.adapter_files import ARRAYS, checksum_of

from .run import Run

_TRAINING_ONLY = ("dropout",)
"""Fields of a method that say how d is trained, not what it does."""


def require_start(path: str, adapter: Adapter) -> None:
    """Check what is known of an adapter before the base is loaded.

    Args:
        path: ``config.model.adapter``.
        adapter: of the run.

    Raises:
        FileNotFoundError: when the directory holds no adapter.
        ValueError: when it is damaged, or of another method or other layers. Of PEFT's directories
            :func:`with_start` says so.
    """
    directory = Path(path)
    if (directory / peft.CONFIG).is_file():
        return
    if not (directory / adapter_description.FILE).is_file():
        raise FileNotFoundError(
            f"config.model.adapter={path} holds neither {adapter_description.FILE} nor "
            f"{peft.CONFIG}; name the directory of an adapter"
        )
    found, _ = adapter_description.read(directory)
    _require_same(path, found, adapter)


def with_start(run: Run) -> Run:
    """The run with the d of ``config.model.adapter``, if it names one.

    Raises:
        ValueError: as :func:`require_start`; when the adapter was made for another base, has
            another frozen network, or is of PEFT and brings weights of the base.
    """
    path = run.config.model.adapter
    if path is None:
        return run
    require_start(path, run.adapter)
    directory = Path(path)
    if (directory / peft.CONFIG).is_file():
        d, frozen = _of_peft(path, run)
    else:
        _, description = adapter_description.read(directory)
        base, present = description["base"], base_fingerprint(run.params)
        if base["fingerprint"] != present:
            raise ValueError(
                f"config.model.adapter={path} was made for the base {base['name']!r} with "
                f"fingerprint {base['fingerprint']}, but these weights have {present}; name that "
                "base in config.model.path"
            )
        shapes = run.adapter.abstract_d(run.params)
        file = directory / ARRAYS
        d = load_arrays(file, shapes, checksum_of(file, description))
        frozen = description["frozen_fingerprint"]
    if frozen != run.meta.frozen_fingerprint:
        raise ValueError(
            f"config.model.adapter={path} has a frozen network of fingerprint {frozen}, but that "
            f"of this run is {run.meta.frozen_fingerprint}. Another seed, another JAX or PEFT drew "
            "it; train a new adapter, or merge this one and train on that"
        )
    return run._replace(start=jax.tree.map(np.asarray, jax.device_get(d)))


def _of_peft(path: str, run: Run) -> tuple[Any, str]:
    """The d of an adapter of PEFT, and the fingerprint of what is frozen with it."""
    found, variables = peft.load(path, run.params)
    # PEFT's file has the frozen arrays and not the seed that drew them here: the arrays decide.
    _require_same(path, found, run.adapter, ("seed",) if variables["frozen"] else ())
    if not trees.same_arrays(variables["params"], run.params):
        raise ValueError(
            f"config.model.adapter={path} brings weights of the base (modules_to_save), which are "
            "not trained here; merge it in PEFT, and train on the result"
        )
    shapes = run.adapter.abstract_d(run.params)
    d = jax.tree.map(lambda shape, leaf: leaf.astype(shape.dtype), shapes, variables["d"])
    return d, fingerprint(variables["frozen"])


def _require_same(
    path: str, found: Adapter, adapter: Adapter, unknown: tuple[str, ...] = ()
) -> None:
    """Raise ``ValueError`` for another method, another setting of it, or other layers.

    Settings of the names in ``unknown`` are not those of the adapter's training.
    """
    where = f"config.model.adapter={path}"
    if found.name != adapter.name:
        raise ValueError(
            f"{where} is of method {found.name!r}, but config.method.name is {adapter.name!r}; set "
            f"it to {found.name!r}, or choose another adapter"
        )
    theirs, ours = dataclasses.asdict(found.method), dataclasses.asdict(adapter.method)
    rows = [
        f"config.method.{name} is {ours[name]!r}, there it is {theirs[name]!r}"
        for name in ours
        if name not in (*_TRAINING_ONLY, *unknown) and ours[name] != theirs[name]
    ]
    if rows:
        raise ValueError(f"{where} has other settings: {'; '.join(rows)}; give the adapter's")
    apart = {*found.layers} ^ {*adapter.layers}
    if apart:
        text = ", ".join(
            f"{layer.name} {(*layer.stack, *layer.kernel_shape)} only "
            f"{'there' if layer in found.layers else 'here'}"
            for layer in sorted(apart, key=lambda layer: layer.name)
        )
        raise ValueError(
            f"{where} adapts other layers: {text}; set config.method.targets to the adapter's, and "
            "load the base that it was made for"
        )
