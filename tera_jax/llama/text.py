"""Text in, text out: answers to prompts, whole or piece by piece as they are made."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tera_jax.adapters.base import Adapter
from tera_jax.llama.decode.config import GenerationConfig
from tera_jax.llama.model import Llama
from tera_jax.llama.pieces import until
from tera_jax.llama.prompts import Prompt, is_one
from tera_jax.llama.text_generator import TextGenerator

NEW_TOKENS = 128
"""The longest answer where nothing else is asked for."""


def generate(
    model: Llama,
    variables: Mapping[str, Any],
    tokenizer: Any,
    prompts: Prompt | Sequence[Prompt],
    *,
    adapter: Adapter | None = None,
    config: GenerationConfig | None = None,
    seed: int = 0,
    batch_size: int = 8,
    stop: Sequence[str] = (),
    **settings: Any,
) -> Any:
    """The answers to prompts, as text.

    Args:
        model: from :func:`tera_jax.llama.load_pretrained`.
        variables: ``{"params": params}``; with an adapter ``frozen`` and ``d`` too.
        tokenizer: of the model, from :func:`tera_jax.llama.load_tokenizer`.
        prompts: one or a list. A text is completed as it is. A list of messages, each with
            ``role`` and ``content``, is a conversation: the tokenizer's chat template makes its
            prompt.
        adapter: of the model; None answers with the base.
        config: how tokens are chosen; greedy, up to :data:`NEW_TOKENS` tokens, when None.
            :func:`tera_jax.llama.load_generation_config` reads a checkpoint's.
        seed: of sampling.
        batch_size: prompts at once.
        stop: texts that end an answer; they are no part of it.
        **settings: fields of :class:`tera_jax.llama.GenerationConfig`, in place of ``config``'s.

    Returns:
        A text for one prompt, a list of texts for a list. An answer ends at an EOS token, after
        ``max_new_tokens``, or where the model's context ends.

    Raises:
        ValueError: for a prompt without a token or longer than the model's context, messages that
            the chat template refuses, and settings that do not fit each other.
        TypeError: for a prompt that is neither a text nor messages, and an unknown setting.

    Example:
        ``tera_jax.generate(model, variables, tokenizer, "Gravity is", adapter=adapter)``
    """
    config = configured(config, settings)
    generator = TextGenerator(model, variables, tokenizer, adapter)
    one = is_one(prompts)
    asked: Any = [prompts] if one else prompts
    ids = [generator.encode(prompt) for prompt in asked]
    texts = [
        "".join(until([generator.decode(answer)], stop))
        for _, answer in generator.answers(ids, config, seed, batch_size)
    ]
    return texts[0] if one else texts


def stream(
    model: Llama,
    variables: Mapping[str, Any],
    tokenizer: Any,
    prompt: Prompt,
    *,
    adapter: Adapter | None = None,
    config: GenerationConfig | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    **settings: Any,
) -> Iterator[str]:
    """The answer to one prompt, piece by piece as it is made.

    The arguments are those of :func:`generate`, and joined the pieces are its answer. No piece ends
    within a character.

    Raises:
        ValueError: as :func:`generate`, and for beam search.
        TypeError: as :func:`generate`.

    Example:
        ``for piece in tera_jax.stream(model, variables, tokenizer, "Gravity is"): print(piece)``
    """
    config = configured(config, settings)
    generator = TextGenerator(model, variables, tokenizer, adapter)
    return generator.pieces(generator.encode(prompt), config, seed, stop)


def configured(config: GenerationConfig | None, settings: Mapping[str, Any]) -> GenerationConfig:
    """A configuration with some of its fields changed.

    Args:
        config: that is changed; greedy, up to :data:`NEW_TOKENS` tokens, when None.
        settings: fields by name. ``temperature``, ``top_k`` and ``top_p`` do not turn sampling on.

    Raises:
        TypeError: for an unknown field, with all there are.
        ValueError: for a value that the configuration refuses.
    """
    known = [field.name for field in dataclasses.fields(GenerationConfig)]
    for name in settings:
        if name not in known:
            raise TypeError(f"unknown setting {name!r}; the settings are {', '.join(known)}")
    start = GenerationConfig(max_new_tokens=NEW_TOKENS) if config is None else config
    return dataclasses.replace(start, **settings)
