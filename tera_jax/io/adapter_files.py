"""Adapters and merged weights on disk: written aside, read back, compared, then put in place."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax import trees
from tera_jax.adapters.base import Adapter, require_collections
from tera_jax.disk import (
    has_checksum,
    load_arrays,
    require_equal,
    require_header,
    save_arrays,
    write_checked,
)
from tera_jax.fingerprint import base_fingerprint, fingerprint
from tera_jax.io import adapter_description, peft
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.family.families import FAMILIES

ARRAYS = "adapter.safetensors"
FROZEN = "frozen.safetensors"


def save_adapter(
    directory: str | os.PathLike[str],
    adapter: Adapter,
    variables: Mapping[str, Any],
    base_name: str,
    with_frozen: bool = False,
    dtype: jax.typing.DTypeLike = jnp.float32,
    check_frozen: bool = True,
) -> Path:
    """Write an adapter alone: its trainable arrays, and what regenerates the rest.

    ``adapter.safetensors`` holds the ``d`` collection by path, ``adapter.json`` what it is
    (:mod:`tera_jax.io.adapter_description`). It is read back and compared before the directory
    appears.

    Args:
        directory: absent or empty.
        adapter: from :func:`tera_jax.adapt`.
        variables: ``params``, ``frozen`` and ``d``.
        base_name: for the reader, such as the path or hub name of the base.
        dtype: float32 keeps every bit of ``d``; bfloat16 rounds it and halves the file, which for
            a 7B model under ``4096|8x8x8x8`` takes 1.06 MB or 0.53 MB.
        with_frozen: also write the frozen arrays, for readers whose JAX draws other numbers from
            the seed. Those that no seed regenerates are always written.
        check_frozen: also draw the frozen arrays again and compare them. Of many adapters that
            share them, the first one's check does for all.

    Returns:
        The directory.

    Raises:
        FileExistsError: when the directory is not empty.
        ValueError: when a collection is missing, or an array has NaN or infinity.
    """
    require_collections(variables)
    d = jax.tree.map(lambda leaf: leaf.astype(dtype), variables["d"])
    frozen = variables["frozen"]
    trees.require_finite({"d": d, "frozen": frozen}, "the adapter")
    base = {"name": base_name, "fingerprint": base_fingerprint(variables["params"])}

    def write(path: Path) -> None:
        arrays = {ARRAYS: save_arrays(path / ARRAYS, d)}
        if with_frozen or not adapter.regenerates:
            arrays[FROZEN] = save_arrays(path / FROZEN, frozen)
        described = adapter_description.describe(adapter, fingerprint(frozen), base, arrays)
        adapter_description.write(path, described)

    def check(path: Path) -> None:
        if check_frozen:
            _, loaded = load_adapter(path, variables["params"])
            require_equal(loaded["frozen"], frozen, path)
        else:
            _, description = adapter_description.read(path)
            loaded = {"d": _load_arrays(path / ARRAYS, variables["d"], description)}
        require_equal(loaded["d"], jax.tree.map(lambda leaf: leaf.astype(jnp.float32), d), path)

    return write_checked(directory, write, check)


def save_peft(
    directory: str | os.PathLike[str],
    adapter: Adapter,
    variables: Mapping[str, Any],
    base_name: str,
    config: LlamaConfig | None = None,
) -> Path:
    """Write a PEFT adapter directory, and compare the update that is read back.

    Args:
        directory: absent or empty.
        adapter: from :func:`tera_jax.adapt`.
        variables: ``params``, ``frozen`` and ``d``.
        base_name: what PEFT is to load as the base.
        config: of the base. A Phi-3 needs it: its files fuse q, k and v, and gate and up.

    Raises:
        FileExistsError: when the directory is not empty.
        ValueError: for a method that PEFT does not have, or not on these layers of this base, or an
            array with NaN or infinity.
    """
    trees.require_finite({"d": variables["d"]}, "the adapter")
    whole = config is not None and FAMILIES[config.model_type].fused
    written, as_written = peft.plain(adapter, variables, whole)

    def check(path: Path) -> None:
        loaded, found = peft.load(path, variables["params"])
        if loaded.name == written.name:
            require_equal(found["d"], as_written["d"], path)

    return write_checked(
        directory, lambda path: peft.save(path, written, as_written, base_name, whole), check
    )


def load_adapter(
    directory: str | os.PathLike[str], params: Any, allow_other_base: bool = False
) -> tuple[Adapter, dict[str, Any]]:
    """Read an adapter and apply it to a base.

    Args:
        directory: from :func:`save_adapter`, or a PEFT adapter directory (:mod:`tera_jax.io.peft`).
        params: the base's ``params`` collection, sharded or not.
        allow_other_base: apply it to weights that it was not made for, if the shapes fit.

    Returns:
        The adapter, and the variables ``params``, ``frozen`` and ``d`` for its ``apply`` and
        ``merge``. Its ``params`` are those given, but for an embedding or a head that a PEFT
        adapter brings. The frozen network is drawn from its seed unless the directory holds it.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when a file is not of this format, is damaged, has no checksum, or lacks an
            array or has one too many. When the adapter was made for other layers or weights of a
            base. When the frozen network that the seed gives here has another fingerprint.

    Example:
        ``adapter, variables = load_adapter("runs/quickstart/adapter", params)``, then
        ``adapter.apply(model, variables, tokens_BL)``.
    """
    path = Path(directory)
    if (path / peft.CONFIG).is_file():
        return peft.load(path, params)
    adapter, description = adapter_description.read(path)
    require_layers(adapter, params, path)
    base, present = description["base"], base_fingerprint(params)
    if base["fingerprint"] != present and not allow_other_base:
        raise ValueError(
            f"{path} was made for the base {base['name']!r} with fingerprint "
            f"{base['fingerprint']}, but these weights have {present}; load that base, or pass "
            "allow_other_base=True"
        )
    shapes = adapter.abstract_d(params)
    require_header(path / ARRAYS, shapes)  # before anything is drawn
    frozen = _load_frozen(path, adapter, params, description)
    d = _load_arrays(path / ARRAYS, shapes, description)
    return adapter, {"params": params, "frozen": frozen, "d": d}


def require_layers(adapter: Adapter, params: Any, path: Path) -> None:
    """Check that a base has the layers of an adapter.

    Args:
        adapter: whose layers they are.
        params: of the base, abstract or real.
        path: of the adapter, for the error.

    Raises:
        ValueError: for a layer that is missing or has kernels of another shape.
    """
    for layer in adapter.layers:
        node = params
        for name in (*layer.path, adapter.parameter):
            node = node.get(name) if isinstance(node, Mapping) else None
        shape = None if node is None else node.shape
        if shape is None or (
            shape[: len(layer.stack)] != layer.stack
            or np.prod(shape) != np.prod(layer.stack + layer.kernel_shape)
        ):
            raise ValueError(
                f"{path} adapts layer {layer.name!r} with kernels "
                f"{layer.stack + layer.kernel_shape}, but this base has "
                f"{'none' if shape is None else shape} there; load the base that it was made for"
            )


def _load_frozen(path: Path, adapter: Adapter, params: Any, description: Mapping[str, Any]) -> Any:
    if (path / FROZEN).is_file() or not adapter.regenerates:
        shapes = jax.eval_shape(adapter.init_frozen, params)
        frozen = _load_arrays(path / FROZEN, shapes, description)
    else:
        frozen = jax.jit(adapter.init_frozen)(params)
    require_fingerprint(fingerprint(frozen), description["frozen_fingerprint"], str(path))
    return frozen


def _load_arrays(path: Path, shapes: Any, description: Mapping[str, Any]) -> Any:
    return load_arrays(path, shapes, checksum_of(path, description))


def checksum_of(path: Path, description: Mapping[str, Any]) -> str | None:
    """The checksum that the description has of a file of arrays; in version 1 the file has it.

    Raises:
        ValueError: when neither has one.
    """
    checksum = description["arrays"].get(path.name)
    first = description["version"] == 1
    if (first and not has_checksum(path)) or (not first and checksum is None):
        raise ValueError(
            f"{path} has no checksum {'inside' if first else 'in adapter.json'}; "
            "write the adapter again"
        )
    return checksum


def require_fingerprint(present: str, expected: str, where: str) -> None:
    """Raise ``ValueError`` unless two fingerprints of a frozen network are the same."""
    if present != expected:
        raise ValueError(
            f"{where} was made with a frozen network of fingerprint {expected}, but its seed gives "
            f"{present} here: JAX {jax.__version__} draws other numbers, or the seed was changed. "
            "Use the JAX that made it, and export the adapter with its frozen arrays"
        )
