"""Checkpoints on disk <-> the ``params`` collection, one leaf at a time."""

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from safetensors.numpy import save_file

from tera_jax import atomic, disk, json_files, trees
from tera_jax.llama.checkpoint import names
from tera_jax.llama.checkpoint.contents import check, check_counts, require_finite
from tera_jax.llama.checkpoint.gguf import from_gguf
from tera_jax.llama.checkpoint.gguf_file import open_gguf
from tera_jax.llama.checkpoint.gguf_tensors import GgufTensors
from tera_jax.llama.checkpoint.readers import SafeTensors, Tensors, of_text
from tera_jax.llama.checkpoint.resolve import locate
from tera_jax.llama.checkpoint.special_tokens import with_generation_config
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.family.families import FAMILIES
from tera_jax.llama.model import Llama
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.quantize import BLOCK, Quantizer
from tera_jax.sharding import make_mesh

_AT_ONCE = 2**28
"""Bytes of the layers of a parameter that are read and sent to a device together, or one layer."""


def load_config(path_or_name: str | os.PathLike[str]) -> LlamaConfig:
    """Reads the configuration of a model, and no weight.

    Args:
        path_or_name: as of :func:`load_pretrained`.

    Raises:
        FileNotFoundError: for a checkpoint that is not there.
        ValueError: for a configuration that is damaged, or of a model that is not read.
    """
    path = locate(path_or_name)
    if path.is_file():
        return from_gguf(open_gguf(path))
    raw = json_files.read(path / "config.json", remedy="fetch it again", integer_bits=128)
    return with_generation_config(LlamaConfig.from_hf(raw), path)


def load_pretrained(
    path_or_name: str | os.PathLike[str],
    dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
    remat: str = "none",
    quantize: str = "none",
    block: int = BLOCK,
) -> tuple[Llama, dict[str, Any]]:
    """Reads a model of the Llama family straight into its sharding.

    Counts, names and shapes are all checked before a weight is read. Beside the arrays themselves
    the host holds a few layers of one shard of one leaf. Pickles and code in the checkpoint are
    never read.

    Of a directory with both, ``model.safetensors`` is read and not the index, as in transformers.
    The model's ``eos_token_id`` are those of ``config.json`` and ``generation_config.json``.

    With ``quantize`` each parameter is quantised before the next one is read. The model's own
    ``apply`` does not know such parameters: an adapter's does, and so does the model's under
    :func:`tera_jax.adapters.interceptor.dequantized`.

    Args:
        path_or_name: an HF directory with safetensors, a GGUF file, or a name on the hub; see
            :func:`tera_jax.llama.checkpoint.resolve.locate`.
        dtype: to which the weights are converted, and in which the model computes.
        mesh: from :func:`tera_jax.sharding.make_mesh`; one device when None.
        remat: see :class:`tera_jax.llama.model.Llama`.
        quantize: ``none``, or in which of :data:`tera_jax.quantize.KINDS` the linear layers of the
            decoder are kept, whatever type the checkpoint has.
        block: inputs of a layer that then share a scale; not for ``fp8``, which has one scale for
            each output.

    Returns:
        ``(model, params)``: ``model.apply({"params": params}, tokens_BL)``.

    Raises:
        FileNotFoundError: for a checkpoint or a shard of it that is not there.
        ValueError: for a config, a tensor or a file that does not fit, and for a tensor with NaN or
            infinite numbers; it names it and the remedy.
    """
    path = locate(path_or_name)
    tensors: Tensors
    if path.is_file():
        file = open_gguf(path)
        config = from_gguf(file)
        tensors = GgufTensors(file, config)
    else:
        config = load_config(path)
        tensors = of_text(SafeTensors(path), path, config.model_type)
    check_counts(tensors, config, path)
    model = Llama(config, dtype=dtype, remat=remat)
    abstract = abstract_params(model)
    check(tensors, _shapes(abstract), config, path)
    fused = FAMILIES[config.model_type].fused
    first_row = names.layout(_shapes(abstract), fused).first_row if fused else {}
    mesh = make_mesh() if mesh is None else mesh
    shardings = parameter_shardings(abstract, mesh)
    layout = functools.partial(parameter_shardings, mesh=mesh)
    quantizer = None if quantize == "none" else Quantizer(abstract, quantize, block, layout)

    def load(key_path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> Any:
        array = _load_leaf(tensors, trees.name(key_path), leaf, sharding, first_row)
        return array if quantizer is None else quantizer(key_path, array)

    return model, jax.tree.map_with_path(load, abstract, shardings)


def save_pretrained(
    model: Llama,
    params: dict[str, Any],
    directory: str | os.PathLike[str],
    tokenizer: Any = None,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes a Hugging Face directory that transformers loads.

    Args:
        model: its config is written.
        params: the ``params`` collection; every leaf keeps its dtype.
        directory: absent or empty.
        tokenizer: a transformers tokenizer to be saved beside the weights.
        max_shard_bytes: size of a file; with more than one there is an index.

    Raises:
        FileExistsError: when the directory is not empty.
        ValueError: when ``params`` are not those of ``model``, or have NaN or infinity.
    """
    directory = Path(directory)
    disk.require_empty(directory)
    config = model.config.to_hf()
    leaves = named_params(model, params)
    trees.require_finite(params, "the weights")
    config["dtype"] = str(next(iter(leaves.values())).dtype)
    directory.mkdir(parents=True, exist_ok=True)

    # The files are planned before they are written, because their names say how many there are.
    shards: list[dict[str, int]] = [{}]
    layout = names.layout(_shapes(params), FAMILIES[model.config.model_type].fused)
    for name, parts in layout.parts.items():
        size = math.prod(layout.shapes[name]) * leaves[parts[0].path].dtype.itemsize
        if shards[-1] and sum(shards[-1].values()) + size > max_shard_bytes:
            shards.append({})
        shards[-1][name] = size
    stored = _stored(leaves, layout)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        file = file if len(shards) > 1 else "model.safetensors"
        content = dict(next(stored) for _ in shard)
        with atomic.replacing(directory / file) as part:
            save_file(content, part, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        total = sum(sum(shard.values()) for shard in shards)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        atomic.write_json(directory / "model.safetensors.index.json", index)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    atomic.write_json(directory / "config.json", config)


def named_params(model: Llama, params: dict[str, Any]) -> dict[str, Any]:
    """The leaves of ``params`` by their paths.

    Raises:
        ValueError: when they are not those of ``model``.
    """
    leaves, expected = trees.named(params), _shapes(abstract_params(model))
    for path in expected.keys() | leaves.keys():
        shape = leaves[path].shape if path in leaves else None
        if shape != expected.get(path):
            raise ValueError(
                f"params/{path} has shape {shape}, but the model's config makes it "
                f"{expected.get(path)}; give the params of this model"
            )
    return leaves


def abstract_params(model: Llama) -> dict[str, Any]:
    """Shape and dtype of every parameter, without computing any."""
    tokens_BL = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens_BL)["params"]


def _load_leaf(
    tensors: Tensors,
    path: str,
    leaf: jax.ShapeDtypeStruct,
    sharding: NamedSharding,
    first_row: Mapping[str, int],
) -> jax.Array:
    name = names.TABLE[path]
    stacked = "{}" in name.hf

    def read(layer: int, index: tuple[slice, ...], out: np.ndarray) -> None:
        own = name.hf.format(layer)
        where = index[::-1] if name.transposed else index
        tensor = names.fused_name(own) if first_row else own
        start = first_row.get(own, 0)
        rows = slice(where[0].start + start, where[0].stop + start)
        found = tensors.read(tensor, (rows, *where[1:]))
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            out[...] = found.T if name.transposed else found
        require_finite(out, tensors, tensor)

    def shard(index: tuple[slice, ...]) -> np.ndarray:
        out = np.empty([part.stop - part.start for part in index], leaf.dtype)
        if stacked:
            for row, layer in enumerate(range(index[0].start, index[0].stop)):
                read(layer, index[1:], out[row])
        else:
            read(0, index, out)
        return out

    def parts(index: tuple[slice, ...]) -> Iterator[np.ndarray]:
        """The shard in consecutive groups of layers."""
        layers, *rest = index
        bytes_ = leaf.dtype.itemsize * math.prod(part.stop - part.start for part in rest)
        step = max(1, _AT_ONCE // bytes_) if stacked else layers.stop - layers.start
        for start in range(layers.start, layers.stop, step):
            yield shard((slice(start, min(start + step, layers.stop)), *rest))

    return _make_array(leaf, sharding, parts)


def _make_array(
    leaf: jax.ShapeDtypeStruct,
    sharding: NamedSharding,
    parts: Callable[[tuple[slice, ...]], Iterator[np.ndarray]],
) -> jax.Array:
    """``jax.make_array_from_callback`` that holds a part of a shard on the host, and reads it once.

    JAX's own calls back for every device, replicas too, before it sends the first shard away.
    """
    devices: dict[jax.Device, Any] = dict(sharding.addressable_devices_indices_map(leaf.shape))
    by_index: dict[Any, list[jax.Device]] = {}
    for device, index in devices.items():
        key = tuple(part.indices(size)[:2] for part, size in zip(index, leaf.shape, strict=True))
        by_index.setdefault(key, []).append(device)
    placed: dict[jax.Device, jax.Array] = {}
    for key, replicas in by_index.items():
        shape, row = tuple(stop - start for start, stop in key), 0
        for data in parts(tuple(slice(*bounds) for bounds in key)):
            for device in replicas:
                part = jax.device_put(data, device)
                placed[device] = _filled(placed.get(device), part, shape, row)
            jax.block_until_ready([placed[device] for device in replicas])
            row += len(data)
    return jax.make_array_from_single_device_arrays(
        leaf.shape, sharding, [placed[device] for device in devices]
    )


def _filled(
    whole: jax.Array | None, part: jax.Array, shape: tuple[int, ...], row: int
) -> jax.Array:
    """An array of ``shape`` with ``part`` from ``row`` on: in ``whole``, which None begins."""
    if part.shape == shape:
        return part
    whole = jnp.zeros(shape, part.dtype, device=part.device) if whole is None else whole
    return _written(whole, part, row)


@functools.partial(jax.jit, donate_argnums=0)
def _written(whole: jax.Array, part: jax.Array, row: jax.Array | int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, part, row, axis=0)


def _stored(
    leaves: dict[str, jax.Array | np.ndarray], layout: names.Layout
) -> Iterator[tuple[str, np.ndarray]]:
    """The Hugging Face tensors in the order of the plan, few leaves fetched at a time."""
    held: dict[str, np.ndarray] = {}
    for name, parts in layout.parts.items():
        paths = [part.path for part in parts]
        held = {path: held[path] if path in held else np.asarray(leaves[path]) for path in paths}
        rows = [_of_layer(held[part.path], part) for part in parts]
        yield name, rows[0] if len(rows) == 1 else np.concatenate(rows)


def _of_layer(whole: np.ndarray, part: names.Part) -> np.ndarray:
    one = whole if part.layer is None else whole[part.layer]
    return np.ascontiguousarray(one.T if names.TABLE[part.path].transposed else one)


def _shapes(params: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in trees.named(params).items()}
