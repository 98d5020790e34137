"""Plain weights, their tokenizer and their chat template as one GGUF file."""

import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tera_jax import atomic, trees
from tera_jax.llama.checkpoint.gguf import from_gguf
from tera_jax.llama.checkpoint.gguf_export import metadata, tensors, vocabulary
from tera_jax.llama.checkpoint.gguf_export.tensors import DTYPES, Tensor
from tera_jax.llama.checkpoint.gguf_export.vocabulary import Vocabulary
from tera_jax.llama.checkpoint.gguf_file import open_gguf
from tera_jax.llama.checkpoint.weights import named_params
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.model import Llama

_log = logging.getLogger(__name__)


def require_gguf(config: LlamaConfig, tokenizer: Any, dtype: str = "f16") -> Vocabulary | None:
    """Check that :func:`save_gguf` can write a model, without its weights.

    Args:
        config: of the model.
        tokenizer: of transformers, or None for a file without one.
        dtype: of the matrices.

    Returns:
        What the file will say of the tokenizer.

    Raises:
        ValueError: for another type, family or feature than are written, and a tokenizer that
            llama.cpp has no name for; the error names it and the remedy.
    """
    if dtype.lower() not in DTYPES:
        raise ValueError(f"GGUF type {dtype!r}; choose one of {', '.join(DTYPES)}")
    metadata.require_config(config)
    return None if tokenizer is None else vocabulary.of_tokenizer(tokenizer, config)


def save_gguf(
    model: Llama,
    params: dict[str, Any],
    path: str | os.PathLike[str],
    tokenizer: Any = None,
    dtype: str = "f16",
    name: str | None = None,
) -> None:
    """Writes a GGUF file that llama.cpp runs, and compares what is read back, bit for bit.

    Norms, biases and factors of rotary frequencies are float32, the matrices of type ``dtype``. One
    tensor is on the host at a time. The file is there when it is whole and read back.

    Args:
        model: its config is written; families are ``llama``, ``qwen2`` and ``qwen3``.
        params: plain weights, the ``params`` collection.
        path: of the file, whose directory is there; a file there is replaced.
        tokenizer: a transformers tokenizer of byte-level BPE, written with its chat template. A
            file without one can be read here, but gives llama.cpp no text.
        dtype: ``f16``, ``bf16`` or ``q8_0``. A matrix whose rows are no whole blocks of Q8_0 is F16
            there; a line of the log says how many.
        name: ``general.name``.

    Raises:
        ValueError: as :func:`require_gguf`. For ``params`` that are not those of ``model``, that
            have NaN or infinity, or weights too large for the type; nothing is written.
        OSError: when there is no room, or the directory cannot be written to.
    """
    dtype, config = dtype.lower(), model.config
    words = require_gguf(config, tokenizer, dtype)
    leaves = named_params(model, params)
    trees.require_finite(params, "the weights")
    planned = tensors.plan(config, {path_: leaf.shape for path_, leaf in leaves.items()}, dtype)
    tensors.require_in_range(planned, leaves)
    narrow = [tensor.name for tensor in planned if tensor.kind == tensors.Kind.F16]
    if dtype == "q8_0" and narrow:
        _log.warning(
            "%d of %d tensors, such as %s, are F16 in %s: their rows are no whole blocks of Q8_0",
            *(len(narrow), len(planned), narrow[0], path),
        )
    with atomic.replacing(Path(path)) as part:
        writer = gguf.GGUFWriter(part, config.model_type)
        _add_metadata(writer, config, words, dtype, name)
        try:
            sums = _write(writer, planned, tensors.contents(planned, leaves, config))
        finally:
            writer.close()
        _require_read_back(part, config, planned, sums)


def _add_metadata(
    writer: gguf.GGUFWriter,
    config: LlamaConfig,
    words: Vocabulary | None,
    dtype: str,
    name: str | None,
) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name or "")  # the writer leaves an empty text out
    writer.add_file_type(DTYPES[dtype][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    metadata.add_config(writer, config)
    if words is not None:
        vocabulary.add_vocabulary(writer, words)
        return
    writer.add_tokenizer_model("none")
    eos = config.eos_token_id
    first = eos[0] if isinstance(eos, tuple) else eos
    for key, id_ in (("bos", config.bos_token_id), ("eos", first), ("pad", config.pad_token_id)):
        if id_ is not None:
            getattr(writer, f"add_{key}_token_id")(id_)


def _write(
    writer: gguf.GGUFWriter, planned: list[Tensor], arrays: Iterable[np.ndarray]
) -> list[str]:
    """Write everything, and give the checksum of each tensor."""
    for tensor in planned:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=tensor.kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    sums = []
    for array in arrays:
        sums.append(_checksum(array))
        writer.write_tensor_data(array)
    return sums


def _checksum(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()


def _require_read_back(
    path: Path, config: LlamaConfig, planned: list[Tensor], sums: list[str]
) -> None:
    """Raise ``ValueError`` where the file does not say what was to be written."""
    file = open_gguf(path)
    metadata.require_same(from_gguf(file), config)
    for tensor, expected, (_, found) in zip(planned, sums, file.tensors, strict=True):
        same = (found.name, found.tensor_type) == (tensor.name, tensor.kind)
        shape = tuple(int(size) for size in found.shape[::-1])
        if not same or shape != tensor.shape or _checksum(found.data) != expected:
            raise ValueError(
                f"tensor {tensor.name} read back from {path} is not what was written; export again"
            )
