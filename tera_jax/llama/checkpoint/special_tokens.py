"""Which tokens end an answer, and which ones a tokenizer puts at the ends of a text."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from tera_jax import json_files
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.family.keys import TOKEN_IDS

_FILE = "generation_config.json"


class Ends(NamedTuple):
    """Token ids that a tokenizer adds to every text.

    Attributes:
        before: such as BOS.
        after: such as EOS.
    """

    before: list[int]
    after: list[int]


def with_generation_config(config: LlamaConfig, directory: Path) -> LlamaConfig:
    """A config whose ``eos_token_id`` has those of ``generation_config.json`` too.

    Args:
        config: of ``config.json``.
        directory: of a Hugging Face checkpoint; without the file nothing changes.

    Raises:
        ValueError: for a file that is no JSON, or token ids of another type or beyond the
            vocabulary.
    """
    file = directory / _FILE
    if not file.is_file():
        return config
    found = json_files.typed(
        file, json_files.read(file, integer_bits=128), {"eos_token_id": TOKEN_IDS}, others="ignore"
    )
    given = _listed(found["eos_token_id"])
    for id_ in given:
        if id_ >= config.vocab_size:
            raise ValueError(
                f"{file} sets eos_token_id to {id_}, but the model has vocab_size="
                f"{config.vocab_size}; fetch the file again"
            )
    own = _listed(config.eos_token_id)
    if set(given) <= set(own):
        return config
    return dataclasses.replace(config, eos_token_id=_one_or_all((*own, *given)))


def eos_ids(config: LlamaConfig, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends an answer.

    Args:
        config: of a loaded model, with the ids of ``config.json`` and ``generation_config.json``,
            or of a GGUF file.
        tokenizer: its ``eos_token_id`` is one more, unless it is None.

    Returns:
        Token ids without repeats, the tokenizer's first.
    """
    return tuple(dict.fromkeys([*_listed(tokenizer.eos_token_id), *_listed(config.eos_token_id)]))


def ends(tokenizer: Any) -> Ends:
    """The special tokens that a transformers tokenizer adds to a text, found by one of a letter.

    Raises:
        ValueError: when the letter's own tokens are not among those of the text with specials.
    """
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        stop = start + len(plain)
        if whole[start:stop] == plain:
            return Ends([*whole[:start]], [*whole[stop:]])
    raise ValueError(
        f"the tokenizer makes {whole} of 'a' with special tokens and {plain} without, which are no "
        "part of it; choose another tokenizer"
    )


def _listed(ids: int | list[int] | tuple[int, ...] | None) -> tuple[int, ...]:
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)


def _one_or_all(ids: tuple[int, ...]) -> int | tuple[int, ...] | None:
    distinct = tuple(dict.fromkeys(ids))
    return distinct[0] if len(distinct) == 1 else distinct or None
