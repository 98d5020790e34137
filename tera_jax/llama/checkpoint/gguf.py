"""GGUF files (llama.cpp) as a config and as tensors in Hugging Face's layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tera_jax.llama import rope
from tera_jax.llama.checkpoint import names
from tera_jax.llama.config import LlamaConfig

_ARCHITECTURES = ("llama", "qwen2", "qwen3")

# Keys below the architecture that are read here, and those that change nothing at these values.
_IMPLEMENTED = frozenset(
    {
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_rms_epsilon",
        "rope.freq_base",
        "rope.dimension_count",
        "vocab_size",
    }
)
_ONLY: dict[str, tuple[Any, ...]] = {
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (1.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.sliding_window": (0,),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
    "tensor_data_layout": ("Meta AI original pth",),
}


def open_gguf(path: Path) -> gguf.GGUFReader:
    """Maps a GGUF file.

    Raises:
        ValueError: when it is not GGUF or is cut short.
    """
    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not a whole GGUF file ({path.stat().st_size} bytes: {error}); "
            "fetch it again"
        ) from error


def field(reader: gguf.GGUFReader, key: str, default: Any = None) -> Any:
    """The value of a metadata key, or ``default``."""
    found = reader.get_field(key)
    return default if found is None else found.contents()


def from_gguf(reader: gguf.GGUFReader) -> LlamaConfig:
    """Reads the metadata of a llama, qwen2 or qwen3 GGUF.

    Llama 3.1's rope scaling is not in the metadata: the converter bakes it into the tensor
    ``rope_freqs.weight``, from which its parameters are found again.

    Raises:
        ValueError: for another architecture, a key or value that would change the function and is
            not implemented, and frequencies that Llama 3.1's formula does not make.
    """
    kind = field(reader, "general.architecture")
    if kind not in _ARCHITECTURES:
        raise ValueError(
            f"GGUF architecture {kind!r} is not supported; choose one of "
            f"{', '.join(_ARCHITECTURES)}"
        )
    values = {}
    for key in reader.fields:
        if key.startswith(f"{kind}."):
            short, value = key.removeprefix(f"{kind}."), field(reader, key)
            if short in _IMPLEMENTED:
                values[short] = value
            elif value not in _ONLY.get(short, ()):
                raise ValueError(
                    f"GGUF key {key}={value!r} is not supported; choose another file, or convert "
                    "the Hugging Face checkpoint"
                )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    try:
        width, heads = values["embedding_length"], values["attention.head_count"]
        head_dim = values.get("attention.key_length", width // heads)
        theta = _shortest(values["rope.freq_base"]) if "rope.freq_base" in values else 10000.0
        sizes = {
            "vocab_size": int(tensors["token_embd.weight"].shape[1]),
            "intermediate_size": values["feed_forward_length"],
            "num_layers": values["block_count"],
            "max_position_embeddings": values["context_length"],
            "rms_norm_eps": _shortest(values["attention.layer_norm_rms_epsilon"]),
        }
    except KeyError as error:
        raise ValueError(f"the GGUF file lacks {error}; fetch it again") from error
    for key in ("attention.value_length", "rope.dimension_count"):
        if values.get(key, head_dim) != head_dim:
            raise ValueError(
                f"GGUF key {kind}.{key}={values[key]} is not supported: it must be the head "
                f"dimension, {head_dim}; choose another file"
            )
    scaling = None
    if "rope_freqs.weight" in tensors:
        baked = np.asarray(tensors["rope_freqs.weight"].data, np.float64)
        scaling = _rope_scaling(baked, rope.frequencies(head_dim, theta, None))
    return LlamaConfig(
        hidden_size=width,
        num_heads=heads,
        num_kv_heads=values.get("attention.head_count_kv", heads),
        head_dim=head_dim,
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings="output.weight" not in tensors,
        attention_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        model_type=kind,
        bos_token_id=field(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=field(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=field(reader, "tokenizer.ggml.padding_token_id"),
        **sizes,
    )


def _shortest(value: float) -> float:
    """Undoes the rounding of a decimal to float32: 9.999999747e-06 was 1e-05."""
    return float(str(np.float32(value)))


def _rope_scaling(baked: np.ndarray, plain: np.ndarray) -> rope.Llama3Scaling | None:
    """The parameters under which :func:`tera_jax.llama.rope.stretches` gives ``baked``.

    Between the two bounds the kept share is a straight line over the plain frequency, whose slope
    and intercept give the original context and ``high_freq_factor`` once ``low_freq_factor``, which
    only sets the unit, is 1 as in every release.
    """
    if np.all(baked == 1.0):
        return None
    factor = float(baked.max())
    between = (baked > 1.0) & (baked < factor * (1 - 1e-6)) if baked.shape == plain.shape else [0]
    if np.sum(between) >= 2:
        kept = (1.0 / baked - 1.0 / factor) / (1.0 - 1.0 / factor)
        slope, intercept = np.polyfit(plain[between].astype(np.float64), kept[between], 1)
        if intercept < 0 < slope:
            span = -1.0 / intercept
            scaling = rope.Llama3Scaling(
                factor=factor,
                low_freq_factor=1.0,
                high_freq_factor=round(1.0 + span, 3),
                original_max_position_embeddings=round(slope * span * 2 * np.pi),
            )
            if np.allclose(rope.stretches(plain, scaling), baked, rtol=1e-4, atol=0):
                return scaling
    raise ValueError(
        f"the GGUF tensor rope_freqs.weight {np.array2string(baked, threshold=8)} is not made by "
        "Llama 3.1's formula; load the Hugging Face checkpoint instead"
    )


class GgufTensors:
    """The tensors of a GGUF file under Hugging Face's names, shapes and order of rows.

    Attributes:
        shapes: of every tensor; one that our table lacks keeps its GGUF name.
        files: the file of every tensor, for messages.
    """

    def __init__(self, path: Path, reader: gguf.GGUFReader, config: LlamaConfig):
        self._tensors, self._heads = {}, {}
        layers = range(config.num_layers)
        hf_names = {
            name.gguf.format(layer): name.hf.format(layer)
            for name in names.TABLE.values()
            for layer in (layers if "{}" in name.gguf else [0])
        }
        for tensor in reader.tensors:
            name = hf_names.get(tensor.name, tensor.name)
            self._tensors[name] = tensor
            try:
                gguf.quants.dequantize(tensor.data[:1], tensor.tensor_type)
            except NotImplementedError as error:
                raise ValueError(
                    f"{path}: tensor {tensor.name} is stored as {tensor.tensor_type.name}, which "
                    "the package gguf cannot read; choose another quantisation"
                ) from error
            # llama.cpp rotates neighbours, so its converter interleaves the halves of each head.
            if config.model_type == "llama" and tensor.name.endswith("attn_q.weight"):
                self._heads[name] = config.num_heads
            if config.model_type == "llama" and tensor.name.endswith("attn_k.weight"):
                self._heads[name] = config.num_kv_heads
        self.shapes = {
            # GGUF counts the fastest axis first.
            name: tuple(int(size) for size in tensor.shape[::-1])
            for name, tensor in self._tensors.items()
        }
        self.files = dict.fromkeys(self.shapes, path)

    def read(self, name: str, index: Sequence[slice]) -> np.ndarray:
        """A slice of a tensor, dequantised to float32."""
        tensor = self._tensors[name]
        data = tensor.data
        if name in self._heads:
            rows = np.arange(self.shapes[name][0]).reshape(self._heads[name], -1, 2)
            data = data[rows.swapaxes(1, 2).reshape(-1)[index[0]]]
        else:
            data = data[index[0]]
        return gguf.quants.dequantize(data, tensor.tensor_type)[(slice(None), *index[1:])]
