"""What is said of records before training: a table, and the first record as the model sees it."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..config import DataConfig
from ..text_table import aligned
from .batches import target_indices
from .examples import Example, Examples, num_targets

OPEN, CLOSE = "\u27e6", "\u27e7"
"""The marks around tokens with a loss."""
_COLUMNS = (
    "records",
    "tokens",
    "longest",
    "prompts cut",
    "responses cut",
    "without loss",
    "dropped",
    "loss tokens",
)
_SHOWN = 4000
"""Characters of the first record that are shown."""


def table(parts: Mapping[str, Examples], dropped: Mapping[str, int], config: DataConfig) -> str:
    """A row of counts for each part: tokens are without padding and without virtual tokens.

    Args:
        parts: examples by name.
        dropped: records of each that were left out.
        config: what the loss is on.
    """
    rows = [["", *_COLUMNS]]
    for name, examples in parts.items():
        tokens, targets = num_targets(examples, config)
        cuts, total = examples.cuts, int(tokens.sum())
        counts = (
            cuts.records,
            total,
            int(tokens.max(initial=0)),
            cuts.prompts,
            cuts.responses,
            int((targets == 0).sum()),
            dropped[name],
        )
        share = int(targets.sum()) / total if total else 0.0
        rows.append([name, *(f"{count:,}" for count in counts), f"{share:.1%}"])
    return "\n".join(aligned(rows))


def first_record(examples: Sequence[Example], tokenizer: Any, config: DataConfig) -> list[str]:
    """The first record as text, tokens with a loss in marks; and a warning if no end is learned."""
    if not len(examples) or not hasattr(tokenizer, "decode"):
        return []
    example = examples[0]
    text = marked(example, tokenizer, config)
    if len(text) > _SHOWN:
        half = _SHOWN // 2
        text = f"{text[:half]} ... ({len(text) - _SHOWN:,} characters) ... {text[-half:]}"
    lines = [f"the first training record, the loss on {OPEN}...{CLOSE}:", text]
    if config.prompt == "auto" and not _learns_an_end(example, tokenizer, config):
        lines.append(
            "warning: the loss is on no special token of this record, so that an end of turn is "
            "not learned; put one, or the mark {% endgeneration %}, after it in the chat template"
        )
    return lines


def marked(example: Example, tokenizer: Any, config: DataConfig) -> str:
    """The text of an example, special tokens included, with marks around tokens with a loss."""
    learned = {*target_indices(example, config, 0).tolist()}
    parts = []
    for loss, group in itertools.groupby(range(len(example.ids)), learned.__contains__):
        text = tokenizer.decode([int(example.ids[index]) for index in group])
        parts.append(f"{OPEN}{text}{CLOSE}" if loss else text)
    return "".join(parts)


def _learns_an_end(example: Example, tokenizer: Any, config: DataConfig) -> bool:
    special = {*getattr(tokenizer, "all_special_ids", ())}
    special |= {*getattr(tokenizer, "added_tokens_encoder", {}).values()}
    ids = np.asarray(example.ids)[target_indices(example, config, 0)]
    return bool(special & {*ids.tolist()})
