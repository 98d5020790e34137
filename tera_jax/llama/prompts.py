"""Prompts to token ids: a text as it is, or a conversation by the tokenizer's chat template."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from tera_jax.llama.checkpoint.special_tokens import ends

Message: TypeAlias = Mapping[str, Any]
"""Of a conversation: ``role`` and ``content``, both texts."""
Prompt: TypeAlias = str | Sequence[Message]
"""A text to be completed, or a conversation to be answered."""

_NEITHER = "a prompt is a text, or a list of messages with role and content, not {}"


def is_one(prompts: Any) -> bool:
    """Whether this is one prompt, and not a list of them.

    Raises:
        TypeError: when it is neither, nor a list of prompts.
    """
    if isinstance(prompts, str) or _is_conversation(prompts):
        return True
    several = isinstance(prompts, Sequence) and not isinstance(prompts, bytes)
    for each in prompts if several else [prompts]:
        if not (isinstance(each, str) or _is_conversation(each)):
            raise TypeError(_NEITHER.format(type(each).__name__))
    return False


def _is_conversation(prompt: Any) -> bool:
    """Whether it is a list of messages, with one at least."""
    listed = isinstance(prompt, Sequence) and not isinstance(prompt, str | bytes)
    return listed and bool(prompt) and all(isinstance(each, Mapping) for each in prompt)


def encode(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The token ids of a prompt.

    A text has the special tokens that the tokenizer puts before every text, such as BOS, and none
    after it.

    Raises:
        TypeError: for what is neither.
        ValueError: for a text that UTF-8 cannot hold, or as :func:`conversation_text`.
    """
    if isinstance(prompt, str):
        return [*ends(tokenizer).before, *_ids(tokenizer, prompt)]
    if not _is_conversation(prompt):
        raise TypeError(_NEITHER.format(type(prompt).__name__))
    return _ids(tokenizer, conversation_text(tokenizer, prompt))


def conversation_text(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The text of a conversation up to where the next answer begins, by the chat template.

    The template runs in transformers' sandbox.

    Raises:
        ValueError: for a tokenizer without a template, a message without a text under ``role`` or
            ``content``, and messages that the template refuses.
    """
    import jinja2  # comes with what reads templates, and is not loaded for plain texts

    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template; give the prompt as a text")
    for number, message in enumerate(messages):
        for field in ("role", "content"):
            if not isinstance(message.get(field), str):
                raise ValueError(f"message {number} has no text under {field!r}; write one")
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, tokenize=False
        )
    except jinja2.TemplateError as error:
        raise ValueError(
            f"the chat template does not take these messages: {error}; change them, or give the "
            "prompt as a text"
        ) from error
    return str(text)


def _ids(tokenizer: Any, text: str) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise ValueError(
            f"the prompt has half a character, the lone surrogate U+{code:04X}; write it in full"
        ) from None
    return [*tokenizer(text, add_special_tokens=False)["input_ids"]]
