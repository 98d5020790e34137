"""The Llamas of transformers that benchmarks/anchors.py measures, by their sizes."""

from typing import Any

import transformers

SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size",
)  # fmt: skip


def llama(*sizes: int, **fields: Any) -> transformers.LlamaConfig:
    """A Llama of the seven sizes, in the order of SIZES; ``fields`` are those of transformers."""
    return transformers.LlamaConfig(**fields | dict(zip(SIZES, sizes, strict=True)))


def llama_2_7b() -> transformers.LlamaConfig:
    """Llama 2 7B."""
    return llama(4096, 11008, 32, 32, 32, 128, 32000, rms_norm_eps=1e-5)


def tiny() -> transformers.LlamaConfig:
    """Two layers for a CPU, with weights large enough for the adapters to matter."""
    return llama(64, 96, 2, 4, 2, 16, 128, initializer_range=0.15)
