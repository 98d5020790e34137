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
from .feed import DataIterator, held_out

__all__ = [
    "Batch",
    "DataIterator",
    "Example",
    "Tokenizer",
    "collate",
    "encode_prompts",
    "held_out",
    "measure",
    "num_tokens",
    "tokenize",
]
