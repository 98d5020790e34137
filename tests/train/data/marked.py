"""Token ids and masks of a text that is written out, for comparison."""

import functools
import re

from tests import parts


@functools.cache
def tokenizer():
    """A part of SmolLM2's, with its chat template."""
    return parts.small_tokenizer()


def ids_and_mask(text, tokens=None):
    """Of a text in which the loss is on what stands between ⟦ and ⟧."""
    tokens = tokenizer() if tokens is None else tokens
    pieces = re.split("[⟦⟧]", text)
    ids = tokens("".join(pieces), add_special_tokens=False)["input_ids"]
    mask, before = [], ""
    for number, piece in enumerate(pieces):
        before += piece
        start = tokens(before, add_special_tokens=False)["input_ids"]
        assert ids[: len(start)] == start, f"tokens run across the end of {before!r}"
        mask += [number % 2] * (len(start) - len(mask))
    return ids, mask


SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n"
)
"""What SmolLM2's template puts before a conversation without a system message."""


def chat(*turns, system=SYSTEM):
    """The text of turns such as ``user: hi`` in SmolLM2's template, the loss on the assistant's."""
    text = system
    for turn in turns:
        role, _, content = turn.partition(": ")
        learned = role.endswith("!")
        said = f"{content}<|im_end|>\n"
        text += f"<|im_start|>{role.rstrip('!')}\n" + (f"⟦{said}⟧" if learned else said)
    return text
