"""Records to batches of tokens."""

from .batches import (
    Batch,
    Example,
    Tokenizer,
    collate,
    encode_prompts,
    measure,
    num_tokens,
    tokenize,
)
from .feed import Stream, held_out

__all__ = [
    "Batch",
    "Example",
    "Stream",
    "Tokenizer",
    "collate",
    "encode_prompts",
    "held_out",
    "measure",
    "num_tokens",
    "tokenize",
]
