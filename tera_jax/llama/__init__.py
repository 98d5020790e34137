"""Decoders of the Llama family: sizes, model, checkpoints, tokenizers and decoding."""

from tera_jax.llama.cache import Cache, init_cache
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.decoding import Decoding
from tera_jax.llama.generate import generate
from tera_jax.llama.model import Llama
from tera_jax.llama.tokenizer import load_tokenizer
from tera_jax.llama.weights import load_pretrained, save_pretrained

__all__ = [
    "Cache",
    "Decoding",
    "Llama",
    "LlamaConfig",
    "generate",
    "init_cache",
    "load_pretrained",
    "load_tokenizer",
    "save_pretrained",
]
