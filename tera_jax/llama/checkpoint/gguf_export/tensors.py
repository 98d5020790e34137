"""The tensors of a GGUF file: their names, their types, and their bytes one at a time."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gguf
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from tera_jax.llama.checkpoint import names
from tera_jax.llama.checkpoint.gguf_export.metadata import rope_factors
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.family.gguf_rows import ROWS

Kind = gguf.GGMLQuantizationType

DTYPES: dict[str, tuple[gguf.GGMLQuantizationType, gguf.LlamaFileType]] = {
    "f16": (Kind.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Kind.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
"""Types of the matrices; norms and biases are float32."""
_BLOCK = gguf.GGML_QUANT_SIZES[Kind.Q8_0][0]
_ROUNDS_TO_INFINITY = {Kind.F16: 65520.0, Kind.BF16: 3.3961775e38, Kind.Q8_0: 127 * 65520.0}
"""The least magnitude that a type has no finite number for; a block of Q8_0 has a float16 scale."""


class Tensor(NamedTuple):
    """A tensor of the file.

    Attributes:
        name: GGUF's.
        path: of the parameter, below ``params``; empty for factors of rotary frequencies.
        layer: of the parameter, or None where it has no axis of layers.
        shape: in the file, the fastest axis last.
        kind: in which it is stored.
    """

    name: str
    path: str
    layer: int | None
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType

    @property
    def nbytes(self) -> int:
        """Its size in the file, without padding."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return int(np.prod(self.shape)) // block * size


def plan(config: LlamaConfig, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> list[Tensor]:
    """All tensors of a model's file, in their order there.

    Args:
        config: of the model.
        shapes: of every parameter, by its path below ``params``.
        dtype: of :data:`DTYPES`. A matrix whose rows are no whole blocks of Q8_0 is F16.
    """
    wanted, _ = DTYPES[dtype]
    found = []
    for path, shape in shapes.items():
        name = names.TABLE[path]
        stacked = "{}" in name.gguf
        for layer, (_, one) in enumerate(names.tensors(path, shape)):
            kind = wanted if len(one) > 1 else Kind.F32
            if kind == Kind.Q8_0 and one[-1] % _BLOCK:
                kind = Kind.F16
            at = layer if stacked else None
            found.append(Tensor(name.gguf.format(layer), path, at, one, kind))
    if rope_factors(config) is not None:
        found.append(Tensor("rope_freqs.weight", "", None, (config.head_dim // 2,), Kind.F32))
    return found


def require_in_range(tensors: list[Tensor], leaves: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` that names the first parameter with a weight too large for its type."""
    kinds = {tensor.path: tensor.kind for tensor in tensors if tensor.kind in _ROUNDS_TO_INFINITY}
    largest = jax.device_get(_largest([leaves[path] for path in kinds]))
    for (path, kind), most in zip(kinds.items(), largest, strict=True):
        if most >= _ROUNDS_TO_INFINITY[kind]:
            raise ValueError(
                f"params/{path} has a weight of magnitude {float(most):g}, which {kind.name} has "
                "no number for; nothing is written. Take the type bf16"
            )


@jax.jit
def _largest(leaves: list[Any]) -> list[jax.Array]:
    return [jnp.max(jnp.abs(leaf.astype(jnp.float32))) for leaf in leaves]


def contents(
    tensors: list[Tensor], leaves: Mapping[str, Any], config: LlamaConfig
) -> Iterator[np.ndarray]:
    """What the file has of each tensor; one is on the host at a time."""
    for tensor in tensors:
        if tensor.path:
            values = _values(tensor, leaves[tensor.path], config)
        else:
            factors = rope_factors(config)
            assert factors is not None
            values = factors
        yield _encoded(values, tensor.kind)


def _values(tensor: Tensor, leaf: Any, config: LlamaConfig) -> np.ndarray:
    """A tensor in the order of llama.cpp, in the type of the parameter."""
    found = np.asarray(leaf if tensor.layer is None else leaf[tensor.layer])
    found = found.T if names.TABLE[tensor.path].transposed else found
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    module = tensor.path.split("/")[-2]
    if ROWS[config.model_type].interleaved and module in heads:
        # The two entries of a pair stand beside each other, not half a head apart.
        halves = found.reshape(heads[module], 2, -1, *found.shape[1:])
        found = halves.swapaxes(1, 2).reshape(found.shape)
    return found


def _encoded(values: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """The contiguous array that is written; bfloat16 as the integers of its bits."""
    if kind == Kind.Q8_0:
        return gguf.quants.quantize(np.ascontiguousarray(values, np.float32), kind)
    if kind == Kind.BF16:
        return np.ascontiguousarray(values, ml_dtypes.bfloat16).view(np.uint16)
    return np.ascontiguousarray(values, np.float16 if kind == Kind.F16 else np.float32)
