"""Whether an open checkpoint holds the model of its config: names, shapes and numbers."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from tera_jax.llama import rope
from tera_jax.llama.checkpoint import names
from tera_jax.llama.checkpoint.readers import Tensors
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.family.families import FAMILIES

_TOGETHER = "check that weights and config belong together"
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_AT_ONCE = 2**24
"""Numbers of a tensor that are compared at a time."""


def check_counts(tensors: Tensors, config: LlamaConfig, path: Path) -> None:
    """Compares the counts of a config with the tensors that are there.

    After it no list and no array that is made from the config is larger than the files.

    Args:
        tensors: the checkpoint.
        config: of the model.
        path: of the checkpoint, for messages.

    Raises:
        ValueError: for a tensor of the first layer that is missing or of another shape, or for
            fewer layers than the config has.
    """
    width, head = config.hidden_size, config.head_dim
    first = "model.layers.0."
    rows = {
        f"{first}self_attn.q_proj.weight": config.num_heads * head,
        f"{first}self_attn.k_proj.weight": config.num_kv_heads * head,
        f"{first}mlp.gate_proj.weight": config.intermediate_size,
    }
    if FAMILIES[config.model_type].fused:
        heads = config.num_heads + 2 * config.num_kv_heads
        rows = {
            f"{first}self_attn.qkv_proj.weight": heads * head,
            f"{first}mlp.gate_up_proj.weight": 2 * config.intermediate_size,
        }
    expected = {_EMBEDDING: (config.vocab_size, width)}
    expected |= {name: (count, width) for name, count in rows.items()}
    if expected.keys() - tensors.shapes.keys():
        _require_same(expected.keys(), tensors.shapes.keys(), path)
    _check_shapes(tensors, expected)
    layers = {
        int(found[1])
        for name in tensors.shapes
        if (found := re.match(r"model\.layers\.(0|[1-9]\d{0,9})\.", name))
    }
    if len(layers) < config.num_layers:
        raise ValueError(
            f"{path} has tensors of {len(layers)} layers, but its config has "
            f"num_layers={config.num_layers}; {_TOGETHER}"
        )


def check(
    tensors: Tensors, shapes: Mapping[str, tuple[int, ...]], config: LlamaConfig, path: Path
) -> None:
    """Compares all names and shapes with the model's, before any weight is read.

    Tensors that the model makes for itself are then compared with what it makes: rotary
    frequencies, and a copy of the embedding where that is the head.

    Args:
        tensors: the checkpoint.
        shapes: of every parameter of the model, by its path below ``params``.
        config: of the model.
        path: of the checkpoint, for messages.

    Raises:
        ValueError: for a tensor that is missing, not the model's, of another shape, or of other
            numbers than the model makes.
    """
    expected = names.layout(shapes, FAMILIES[config.model_type].fused).shapes
    frequencies = {name for name in tensors.shapes if names.FREQUENCIES.fullmatch(name)}
    copies = {_HEAD} & tensors.shapes.keys() - expected.keys()
    _require_same(expected.keys(), tensors.shapes.keys() - frequencies - copies, path)
    _check_shapes(tensors, expected)
    for name in sorted(frequencies):
        _check_frequencies(tensors, name, config)
    if copies:
        _check_copy(tensors, _HEAD, _EMBEDDING)


def is_finite(array: np.ndarray) -> bool:
    """Whether no number is NaN or infinite.

    It takes 0.4 ns a number, which is 3 s for 7B. Halves are compared as integers, for NumPy's own
    test of bfloat16 takes more than twice as long.

    Args:
        array: of any shape, float64, float32, float16 or bfloat16.
    """
    if array.itemsize > 2:
        return bool(np.isfinite(array).all())
    infinity = np.array(np.inf, array.dtype).view(np.uint16)
    return array.size == 0 or bool(np.max(array.view(np.uint16) & 0x7FFF) < infinity)


def require_finite(array: np.ndarray, tensors: Tensors, name: str) -> None:
    """Raises ``ValueError`` where a tensor, in the type that it is loaded in, is not finite."""
    if not is_finite(array):
        raise ValueError(
            f"{tensors.files[name]}: tensor {name} holds NaN or infinite numbers as "
            f"{array.dtype}; fetch it again, or load it in a wider type"
        )


def _require_same(expected: Collection[str], found: Collection[str], path: Path) -> None:
    missing, unexpected = set(expected) - set(found), set(found) - set(expected)
    if missing or unexpected:
        raise ValueError(
            f"{path} does not hold the model that its config describes: "
            f"{_some(missing)} missing, {_some(unexpected)} unexpected; {_TOGETHER}"
        )


def _check_shapes(tensors: Tensors, expected: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in expected.items():
        if tensors.shapes[name] != shape:
            raise ValueError(
                f"{tensors.files[name]}: tensor {name} has shape {tensors.shapes[name]}, but the "
                f"config makes it {shape}; {_TOGETHER}"
            )


def _some(found: set[str]) -> str:
    shown = ", ".join(sorted(found)[:3])
    return f"{len(found)} tensors ({shown}{', ...' if len(found) > 3 else ''})" if found else "none"


def _check_frequencies(tensors: Tensors, name: str, config: LlamaConfig) -> None:
    """They may be rounded to the type of the file."""
    made = rope.frequencies(config.rotary_dim, config.rope_theta, config.rope_scaling)
    if tensors.shapes[name] == made.shape:
        found = tensors.read(name, [slice(None)])
        limits = jnp.finfo(found.dtype)
        relative = max(2 * float(limits.eps), 1e-5)
        least = float(limits.smallest_subnormal)
        if np.allclose(found.astype(np.float64), made, rtol=relative, atol=least):
            return
    raise ValueError(
        f"{tensors.files[name]}: tensor {name} is not the rotary frequencies of "
        f"rope_theta={config.rope_theta} and rope_scaling={config.rope_scaling}; {_TOGETHER}"
    )


def _check_copy(tensors: Tensors, name: str, original: str) -> None:
    if tensors.shapes[name] == tensors.shapes[original]:
        rows, width = tensors.shapes[name]
        parts = _parts(rows, max(1, _AT_ONCE // width))
        if all(_same(tensors, name, original, part) for part in parts):
            return
    raise ValueError(
        f"{tensors.files[name]}: tensor {name} differs from {original}, but the config has "
        "tie_word_embeddings=true; set it to false, or remove the tensor"
    )


def _parts(rows: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _same(tensors: Tensors, name: str, original: str, rows: slice) -> bool:
    found, expected = (tensors.read(each, [rows, slice(None)]) for each in (name, original))
    return bool(np.array_equal(found.astype(np.float32), expected.astype(np.float32)))
