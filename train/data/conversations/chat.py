"""Conversations to token ids and masks, by the chat template of a tokenizer.

Templates are rendered by ``transformers``, in Jinja's immutable sandbox. Where a template marks
what the assistant says with ``{% generation %}``, the mask is that of transformers. Elsewhere a
turn of the assistant is what the conversation up to it has more than the prompt for it.
"""

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jinja2 import TemplateSyntaxError
from jinja2.sandbox import SecurityError

from ..examples import Example, ids_of
from . import tool_calls, tools
from .messages import Message, Turns
from .templates import template_of

Loss = Literal["assistant", "last", "all"]
_Ids = list[int] | ValueError

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def prompt_ids(tokenizer: Any, turns: Turns, template: str | None = None) -> list[int]:
    """The token ids of a conversation, up to where the assistant's next turn begins.

    Args:
        tokenizer: of ``transformers``.
        turns: messages, each with ``role`` and ``content``, and perhaps tools.
        template: a Jinja text; None for that of the tokenizer.

    Raises:
        ValueError: beginning with a verb, when the template refuses the messages or does not read
            the tools; and as :func:`render`.
    """
    text = template_of(tokenizer, template, bool(turns.tools))
    if turns.tools:
        tools.require_read(text)
    (found,) = _texts(tokenizer, [_readable(turns, text)], template, True)
    if isinstance(found, ValueError):
        raise found
    (ids,) = ids_of([found], tokenizer)
    return ids


def render(
    tokenizer: Any,
    conversations: Sequence[Turns],
    template: str | None = None,
    loss: Loss = "assistant",
) -> list[Example | ValueError]:
    """Conversations as token ids, and the mask of what the assistant says.

    The ids are those of ``tokenizer.apply_chat_template(messages, tools=tools)``. A template that
    does not read ``tool_calls`` gets them as text, see :func:`tool_calls.as_text`.

    Args:
        tokenizer: of ``transformers``.
        conversations: each with a turn of the assistant.
        template: a Jinja text; None for that of the tokenizer.
        loss: on all turns of the ``assistant``, on the ``last`` of them, or on ``all`` tokens.

    Returns:
        For each conversation an example; or an error, beginning with a verb, where the template
        refuses it or does not read its tools, or its turns cannot be told from the rest.

    Raises:
        ValueError: when there is no template, or it has an error of syntax or tries to leave the
            sandbox.
    """
    result: dict[int, Example | ValueError] = {}
    for with_tools in (False, True):
        own = [i for i, turns in enumerate(conversations) if bool(turns.tools) == with_tools]
        if not own:
            continue
        text = template_of(tokenizer, template, with_tools)
        try:
            if with_tools:
                tools.require_read(text)
        except ValueError as error:
            result |= dict.fromkeys(own, error)
            continue
        given = [_readable(conversations[i], text) for i in own]
        result |= zip(own, _rendered(tokenizer, given, text, template, loss), strict=True)
    return [result[i] for i in range(len(conversations))]


def _rendered(
    tokenizer: Any, conversations: Sequence[Turns], text: str, template: str | None, loss: Loss
) -> list[Example | ValueError]:
    """As :func:`render`, for conversations whose template has this text."""
    if loss != "all" and _GENERATION.search(text):
        return _marked(tokenizer, conversations, template, loss)
    wholes = _texts(tokenizer, conversations, template, False)
    spans = [
        [] if loss == "all" or isinstance(whole, ValueError) else _learned(turns, loss)
        for turns, whole in zip(conversations, wholes, strict=True)
    ]
    # Up to each turn, and with it; of a last turn that is the whole.
    befores = [
        _first(turns, index)
        for turns, indices in zip(conversations, spans, strict=True)
        for index in indices
        if index
    ]
    afters = [
        _first(turns, index + 1)
        for turns, indices in zip(conversations, spans, strict=True)
        for index in indices
        if index + 1 < len(turns.messages)
    ]
    texts = [
        *wholes,
        *_texts(tokenizer, befores, template, True),
        *_texts(tokenizer, afters, template, False),
    ]
    encoded = iter(ids_of([one for one in texts if isinstance(one, str)], tokenizer))
    found = [next(encoded) if isinstance(one, str) else one for one in texts]
    before = iter(found[len(wholes) : len(wholes) + len(befores)])
    after = iter(found[len(wholes) + len(befores) :])
    result: list[Example | ValueError] = []
    for turns, whole, indices in zip(conversations, found, spans, strict=False):
        ends = [
            (
                index,
                next(before) if index else _NO_START,
                next(after) if index + 1 < len(turns.messages) else whole,
            )
            for index in indices
        ]
        if isinstance(whole, ValueError):
            result.append(whole)
        elif loss == "all":
            result.append(Example(whole, [1] * len(whole)))
        else:
            result.append(_by_difference(whole, ends))
    return result


def _first(turns: Turns, count: int) -> Turns:
    return turns._replace(messages=turns.messages[:count])


def _readable(turns: Turns, template: str) -> Turns:
    """Turns whose calls of tools are text, where the template does not read them."""
    if "tool_calls" in template:
        return turns
    return turns._replace(messages=[tool_calls.as_text(message) for message in turns.messages])


_NO_START = ValueError(
    "begins with a turn of the assistant, whose first token the chat template does not tell. Put a "
    "turn of the user before it, or mark turns with {% generation %} in a template of your own "
    "(config.data.chat_template)"
)


def _by_difference(
    whole: list[int], ends: Sequence[tuple[int, _Ids, _Ids]]
) -> Example | ValueError:
    """The mask of turns, each from the end of the prompt for it to the end of the turn."""
    mask = [0] * len(whole)
    for index, before, after in ends:
        if isinstance(before, ValueError):
            return before
        if isinstance(after, ValueError):
            return after
        for name, part in (("prompt for", before), ("conversation up to", after)):
            if whole[: len(part)] != part:
                return ValueError(
                    f"has a turn of the assistant (message {index}) that cannot be told from the "
                    f"rest: the tokens of the {name} it are not the first of the whole "
                    "conversation. Mark turns with {% generation %} in a template of your own "
                    "(config.data.chat_template), or set config.data.loss=last or all"
                )
        mask[len(before) : len(after)] = [1] * (len(after) - len(before))
    return Example(whole, mask)


def _learned(turns: Turns, loss: Loss) -> list[int]:
    """The indices of the turns with a loss."""
    found = [
        index
        for index, message in enumerate(turns.messages)
        if message["role"] == "assistant" and index >= turns.first
    ]
    return found[-1:] if loss == "last" else found


def _marked(
    tokenizer: Any, conversations: Sequence[Turns], template: str | None, loss: Loss
) -> list[Example | ValueError]:
    """By the marks of the template."""

    def examples(part: Sequence[Sequence[Message]], tools: Any) -> list[Example]:
        encoded = tokenizer.apply_chat_template(
            part,
            tools=tools,
            chat_template=template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        return [*map(Example, encoded["input_ids"], encoded["assistant_masks"])]

    result = _by_tools(conversations, examples)
    return [
        _within(tokenizer, turns, one, template, loss) if isinstance(one, Example) else one
        for turns, one in zip(conversations, result, strict=True)
    ]


def _within(
    tokenizer: Any, turns: Turns, example: Example, template: str | None, loss: Loss
) -> Example | ValueError:
    """An example whose mask leaves out what is not learned of it."""
    ids, mask = example
    if turns.first:
        (text,) = _texts(tokenizer, [_first(turns, turns.first)], template, False)
        if isinstance(text, ValueError):
            return text
        (before,) = ids_of([text], tokenizer)
        if ids[: len(before)] != before:
            return ValueError("has a prompt whose tokens are not the first of the conversation")
        mask = [0] * len(before) + [*mask[len(before) :]]
    if 1 not in mask:
        return ValueError("has no turn that the chat template marks with {% generation %}")
    if loss == "last":
        end = len(mask) - mask[::-1].index(1)
        start = end - [*mask[:end][::-1], 0].index(0)
        mask = [int(start <= place < end) for place in range(len(mask))]
    return Example(ids, mask)


def _texts(
    tokenizer: Any,
    conversations: Sequence[Turns],
    template: str | None,
    add_generation_prompt: bool,
) -> list[str | ValueError]:
    def texts(part: Sequence[Sequence[Message]], tools: Any) -> list[str]:
        found: list[str] = tokenizer.apply_chat_template(
            part,
            tools=tools,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        return found

    return _by_tools(conversations, texts)


def _by_tools(conversations: Sequence[Turns], apply: Callable[..., Any]) -> list[Any]:
    """What ``apply`` makes of messages and tools: of neighbours with the same tools at once."""
    found: list[Any] = []
    for same, group in itertools.groupby(conversations, key=lambda turns: [*turns.tools]):
        given = [turns.messages for turns in group]
        found += _each(given, functools.partial(apply, tools=same or None))
    return found


def _each(conversations: Sequence[Any], apply: Any) -> list[Any]:
    """What ``apply`` makes of all at once, or of each apart where one is refused."""
    if not conversations:
        return []
    try:
        return [*apply([*conversations])]
    except (SecurityError, TemplateSyntaxError) as error:
        what = "tries to leave its sandbox" if isinstance(error, SecurityError) else "is no Jinja"
        raise ValueError(
            f"the chat template {what}: {error}; check the template of the tokenizer or "
            "config.data.chat_template"
        ) from None
    except ImportError:
        raise
    except Exception as error:  # of any kind: a template runs what its author wrote
        if len(conversations) == 1:
            name = "" if type(error).__name__ == "TemplateError" else f"{type(error).__name__}: "
            return [ValueError(f"is refused by the chat template: {name}{error}")]
        return [one for each in conversations for one in _each([each], apply)]
