"""Records to batches of tokens."""

from .batches import Batch, collate, measure, num_tokens
from .examples import Example, Examples, Tokenizer, digest
from .feed import DataIterator, held_out
from .preparation import Prepared, prepare, require_context, require_targets
from .tokens import encode_prompts, tokenize

__all__ = [
    "Batch",
    "DataIterator",
    "Example",
    "Examples",
    "Prepared",
    "Tokenizer",
    "collate",
    "digest",
    "encode_prompts",
    "held_out",
    "measure",
    "num_tokens",
    "prepare",
    "require_context",
    "require_targets",
    "tokenize",
]
