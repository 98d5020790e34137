"""Decoders of the Llama family: sizes, model, checkpoints, tokenizers and decoding."""

from tera_jax.llama.checkpoint.tokenizer import load_tokenizer
from tera_jax.llama.checkpoint.weights import load_pretrained, save_pretrained
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.decode.cache import Cache, init_cache
from tera_jax.llama.decode.config import GenerationConfig
from tera_jax.llama.decode.generate import generate
from tera_jax.llama.model import Llama

__all__ = [
    "Cache",
    "GenerationConfig",
    "Llama",
    "LlamaConfig",
    "generate",
    "init_cache",
    "load_pretrained",
    "load_tokenizer",
    "save_pretrained",
]
