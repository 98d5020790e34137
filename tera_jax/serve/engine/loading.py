"""What an engine is made of: arrays on the device, a source of adapters, and the checks of both."""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from tera_jax import sharding, trees
from tera_jax.adapters.base import Adapter, require_collections
from tera_jax.disk import load_arrays
from tera_jax.fingerprint import base_fingerprint as fingerprint_of
from tera_jax.fingerprint import fingerprint
from tera_jax.io import adapter_description
from tera_jax.io.adapter_files import FROZEN, require_fingerprint, require_layers
from tera_jax.llama import stacking
from tera_jax.llama.model import Llama
from tera_jax.serve.engine import adapter_source
from tera_jax.serve.engine.adapter_source import Source
from tera_jax.serve.engine.slot_device import SlotDevice
from tera_jax.serve.engine.slot_programs import require_layout
from tera_jax.serve.engine_config import EngineConfig
from tera_jax.serve.store import Store, record

Parts = tuple[SlotDevice, Source, EngineConfig, Any]
"""The arguments of an engine."""


def base_alone(model: Llama, params: Any, config: EngineConfig, mesh: Any) -> Parts:
    """:meth:`tera_jax.serve.engine.Engine.of_base`."""
    with on(mesh):
        device = SlotDevice(model, None, {"params": params}, None, config)
    return device, adapter_source.Given({}), config, mesh


def one_adapter(
    model: Llama,
    adapter: Adapter,
    variables: Mapping[str, Any],
    name: str,
    config: EngineConfig,
    mesh: Any,
) -> Parts:
    """:meth:`tera_jax.serve.engine.Engine.of_adapter`."""
    require_collections(variables)
    arrays = {key: np.asarray(leaf) for key, leaf in trees.named(variables["d"]).items()}
    layout = record.layout({key: array.shape for key, array in arrays.items()}, "float32")
    source = adapter_source.Given({name: adapter_source.flat(arrays, layout)})
    base = {"params": variables["params"], "frozen": variables["frozen"]}
    # The only adapter stays on the device, however large it is.
    kept = max(config.device_bytes, layout.size)
    config = dataclasses.replace(config, device_bytes=kept)
    with on(mesh):
        return SlotDevice(model, adapter, base, layout, config), source, config, mesh


def of_store(
    model: Llama,
    params: Any,
    store: Store,
    config: EngineConfig,
    mesh: Any,
    base_fingerprint: str | None,
) -> Parts:
    """:meth:`tera_jax.serve.engine.Engine.of_store`."""
    if base_fingerprint is None and stacking.is_split(params):
        raise ValueError(
            "the layers of params are a list, of which the fingerprint is not known; pass "
            "base_fingerprint=fingerprint.base_fingerprint(params) of the stack"
        )
    described = store.description
    if not {"method", "config", "layers", "frozen_fingerprint", "base"} <= described.keys():
        raise ValueError(
            f"the store {store.directory} does not say what its adapters are; make it by "
            "tera_jax.serve.transfer.create"
        )
    adapter = adapter_description.adapter_of(store.directory, described)
    with on(mesh):
        shapes = jax.eval_shape(stacking.stacked, params)
        require_layers(adapter, shapes, store.directory)
        require_layout(adapter, shapes, store.layout)
        present = base_fingerprint or fingerprint_of(params)
        expected = described["base"]["fingerprint"]
        if present != expected:
            raise ValueError(
                f"the store {store.directory} is for the base {described['base']['name']!r} with "
                f"fingerprint {expected}, but these weights have {present}; load that base"
            )
        frozen = _frozen(adapter, params, shapes, store)
        if mesh is not None:
            frozen = jax.device_put(frozen, sharding.frozen_shardings(frozen, mesh))
        base = {"params": params, "frozen": frozen}
        device = SlotDevice(model, adapter, base, store.layout, config)
    return device, adapter_source.Stored(store, config.host_bytes), config, mesh


def on(mesh: Any) -> Any:
    """The mesh for a block of code; nothing with None."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def _frozen(adapter: Adapter, params: Any, shapes: Any, store: Store) -> Any:
    """Of the store's file, or drawn from its seed."""
    if (store.directory / FROZEN).is_file() or not adapter.regenerates:
        expected = jax.eval_shape(adapter.init_frozen, shapes)
        frozen = load_arrays(store.directory / FROZEN, expected)
    else:
        frozen = jax.jit(lambda params: adapter.init_frozen(stacking.stacked(params)))(params)
    described = store.description["frozen_fingerprint"]
    require_fingerprint(fingerprint(frozen), described, str(store.directory))
    return frozen
