"""Decoders of the Llama family: sizes, model, checkpoints, tokenizers and decoding."""

from typing import TYPE_CHECKING

from tera_jax import lazy

if TYPE_CHECKING:
    from tera_jax.llama.checkpoint.generation_config import load_generation_config
    from tera_jax.llama.checkpoint.gguf_export.file import save_gguf
    from tera_jax.llama.checkpoint.tokenizer import load_tokenizer
    from tera_jax.llama.checkpoint.weights import load_config, load_pretrained, save_pretrained
    from tera_jax.llama.config import LlamaConfig
    from tera_jax.llama.decode.cache import Cache, init_cache
    from tera_jax.llama.decode.config import GenerationConfig
    from tera_jax.llama.decode.generate import generate
    from tera_jax.llama.model import Llama
else:
    __getattr__ = lazy.importer(
        __name__,
        names={
            "Cache": "tera_jax.llama.decode.cache",
            "GenerationConfig": "tera_jax.llama.decode.config",
            "Llama": "tera_jax.llama.model",
            "LlamaConfig": "tera_jax.llama.config",
            "generate": "tera_jax.llama.decode.generate",
            "init_cache": "tera_jax.llama.decode.cache",
            "load_config": "tera_jax.llama.checkpoint.weights",
            "load_generation_config": "tera_jax.llama.checkpoint.generation_config",
            "load_pretrained": "tera_jax.llama.checkpoint.weights",
            "load_tokenizer": "tera_jax.llama.checkpoint.tokenizer",
            "save_gguf": "tera_jax.llama.checkpoint.gguf_export.file",
            "save_pretrained": "tera_jax.llama.checkpoint.weights",
        },
        modules=(
            "attention",
            "checkpoint",
            "config",
            "decode",
            "family",
            "layer",
            "loop",
            "model",
            "pieces",
            "prompts",
            "rope",
            "sharding",
            "stacking",
            "text",
        ),
    )

__all__ = [
    "Cache",
    "GenerationConfig",
    "Llama",
    "LlamaConfig",
    "generate",
    "init_cache",
    "load_config",
    "load_generation_config",
    "load_pretrained",
    "load_tokenizer",
    "save_gguf",
    "save_pretrained",
]
