"""GGUF files (llama.cpp) as a config and as tensors in Hugging Face's layout."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

from tera_jax import json_files
from tera_jax.json_files import Key
from tera_jax.llama import rope
from tera_jax.llama.checkpoint import names
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.family.keys import COUNT, EPS

_ARCHITECTURES = ("llama", "qwen2", "qwen3")

_REMEDY = "choose another file, or convert the Hugging Face checkpoint"
_FREQUENCIES = "rope_freqs.weight"
_MOST = 2**22
"""Entries of a list of the metadata, which takes a Python object for each."""


def _only(kind: Any) -> Key:
    """A key that would change the function, and the values under which it does not."""
    return Key(kind, None)


# Keys below the architecture.
_KEYS = {
    "block_count": COUNT,
    "context_length": COUNT,
    "embedding_length": COUNT,
    "feed_forward_length": COUNT,
    "attention.head_count": COUNT,
    "attention.head_count_kv": Key(int | None, None, least=1),
    "attention.key_length": Key(int | None, None, least=1),
    "attention.value_length": Key(int | None, None, least=1),
    "attention.layer_norm_rms_epsilon": EPS,
    "rope.freq_base": Key(float, 10000.0, least=1, below=1e15),
    "rope.dimension_count": Key(int | None, None, least=1),
    "vocab_size": Key(int | None, None, least=1),
    "rope.scaling.type": _only(Literal["none"]),
    "rope.scaling.factor": _only(Literal[1.0]),
    "expert_count": _only(Literal[0]),
    "expert_used_count": _only(Literal[0]),
    "attention.sliding_window": _only(Literal[0]),
    "attention.causal": _only(Literal[True]),
    "use_parallel_residual": _only(Literal[False]),
    "tensor_data_layout": _only(Literal["Meta AI original pth"]),
}
_ID = Key(int | None, None, least=0)
# llama.cpp ends an answer at each of these.
_STOPS = ("eos_token_id", "eot_token_id", "eom_token_id")
_IDS = {"bos_token_id": _ID, "padding_token_id": _ID, **dict.fromkeys(_STOPS, _ID)}


class _Reader(gguf.GGUFReader):
    """llama.cpp's, which past the end of a file reads on for as long as a count there says."""

    def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        if type(self.data) is not np.ndarray:
            # The same memory; a memmap takes longer to slice.
            self.data = np.asarray(self.data)  # type: ignore[assignment]
        kind = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
        start = int(offset)
        end = start + int(count) * kind.itemsize
        if end > len(self.data):
            raise ValueError(f"it ends before byte {end}")
        return self.data[start:end].view(kind)

    def _get_field_parts(self, offset: Any, kind: Any) -> Any:
        if kind == gguf.GGUFValueType.ARRAY:
            inner = self._get(offset, np.uint32)[0]
            length = int(self._get(offset + 4, np.uint64)[0])
            if inner == gguf.GGUFValueType.ARRAY or length > _MOST:
                raise ValueError(f"a list of {length} entries of type {inner}")
        return super()._get_field_parts(offset, kind)


def open_gguf(path: Path) -> gguf.GGUFReader:
    """Maps a GGUF file.

    Raises:
        ValueError: when it is not GGUF or is cut short.
    """
    try:
        with np.errstate(over="raise"):
            return _Reader(path)
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise ValueError(
            f"{path} is not a whole GGUF file ({path.stat().st_size} bytes: {error}); "
            "fetch it again"
        ) from error


def field(reader: gguf.GGUFReader, key: str, default: Any = None) -> Any:
    """The value of a metadata key, or ``default``.

    Raises:
        ValueError: for a text that is not UTF-8.
    """
    found = reader.get_field(key)
    try:
        return default if found is None else found.contents()
    except UnicodeDecodeError as error:
        raise ValueError(f"GGUF key {key} is not UTF-8 ({error}); fetch the file again") from error


def section(reader: gguf.GGUFReader, prefix: str) -> dict[str, Any]:
    """The values of all metadata keys below a prefix that ends with a dot, by the rest of them."""
    keys = [key for key in reader.fields if key.startswith(prefix)]
    return {key.removeprefix(prefix): field(reader, key) for key in keys}


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
    where, within = "the GGUF file", f"{kind}."
    given = section(reader, within)
    values = json_files.typed(where, given, _KEYS, within=within, remedy=_REMEDY)
    ids = json_files.typed(
        where,
        section(reader, "tokenizer.ggml."),
        _IDS,
        others="ignore",
        within="tokenizer.ggml.",
        remedy=_REMEDY,
    )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    width, heads = values["embedding_length"], values["attention.head_count"]
    head_dim = values["attention.key_length"] or width // heads
    theta = _shortest(values["rope.freq_base"])
    for key in ("attention.value_length", "rope.dimension_count"):
        if values[key] not in (None, head_dim):
            raise ValueError(
                f"{where} sets {within}{key} to {values[key]}, not the head dimension {head_dim}; "
                "choose another file"
            )
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ValueError(f"{where} lacks the tensor token_embd.weight, a matrix; fetch it again")
    vocab_size = int(embedding.shape[1])
    if values["vocab_size"] not in (None, vocab_size):
        raise ValueError(
            f"{where} sets {within}vocab_size to {values['vocab_size']}, but token_embd.weight has "
            f"{vocab_size} rows; fetch it again"
        )
    scaling = None
    if _FREQUENCIES in tensors:
        baked = _frequency_factors(tensors[_FREQUENCIES], head_dim // 2)
        scaling = _rope_scaling(baked, rope.frequencies(head_dim, theta, None))
    stops = sorted({ids[name] for name in _STOPS} - {None})
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=values["feed_forward_length"],
        num_layers=values["block_count"],
        num_heads=heads,
        num_kv_heads=values["attention.head_count_kv"] or heads,
        head_dim=head_dim,
        max_position_embeddings=values["context_length"],
        rms_norm_eps=_shortest(values["attention.layer_norm_rms_epsilon"]),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings="output.weight" not in tensors,
        attention_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        model_type=kind,
        bos_token_id=ids["bos_token_id"],
        eos_token_id=stops[0] if len(stops) == 1 else tuple(stops) or None,
        pad_token_id=ids["padding_token_id"],
    )


def _shortest(value: float) -> float:
    """Undoes the rounding of a decimal to float32: 9.999999747e-06 was 1e-05."""
    return float(str(np.float32(value)))


def _frequency_factors(tensor: Any, count: int) -> np.ndarray:
    if tensor.tensor_type != gguf.GGMLQuantizationType.F32 or tensor.data.shape != (count,):
        raise ValueError(
            f"the GGUF tensor {_FREQUENCIES} has type {tensor.tensor_type.name} and shape "
            f"{tensor.data.shape}, not F32 and ({count},); fetch the file again"
        )
    return np.asarray(tensor.data, np.float64)


def _rope_scaling(baked: np.ndarray, plain: np.ndarray) -> rope.Llama3Scaling | None:
    """The parameters under which :func:`tera_jax.llama.rope.stretches` gives ``baked``.

    Between the two bounds the kept share is a straight line over the plain frequency. Its slope and
    intercept give the original context and ``high_freq_factor``. ``low_freq_factor`` only sets the
    unit, and is 1 as in every release.
    """
    if np.all(baked == 1.0):
        return None
    factor = float(baked.max())
    between = (baked > 1.0) & (baked < factor * (1 - 1e-6))
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
        self._tensors: dict[str, Any] = {}
        self._heads: dict[str, int] = {}
        for tensor in reader.tensors:
            if tensor.name == _FREQUENCIES:  # the config was read from it
                continue
            name = _hf_name(tensor.name)
            if name in self._tensors:
                raise ValueError(f"{path}: tensor {name} is there twice; fetch the file again")
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


_TEMPLATES: Mapping[str, str] = {name.gguf: name.hf for name in names.TABLE.values()}


def _hf_name(name: str) -> str:
    """Hugging Face's name of a GGUF tensor, or its own where our table has none."""
    layer = re.fullmatch(r"blk\.(0|[1-9]\d{0,9})\.(.+)", name)
    template = _TEMPLATES.get(name if layer is None else f"blk.{{}}.{layer[2]}")
    if template is not None:
        return template.format("" if layer is None else layer[1])
    return f"GGUF's {name}" if name.startswith(("model.", "lm_head.")) else name
