"""Messages of a conversation: the forms that they come in, and the one that templates read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tera_jax.json_files import shown

from . import tool_calls
from .tools import Tool

Message = dict[str, Any]
"""``role`` and ``content``, and perhaps a name and ``tool_calls``."""

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "observation": "tool",
}
"""The roles that are read, and the name that the chat template gets."""

KEYS = (("role", "content"), ("from", "value"))
"""Who speaks and what, as OpenAI and as ShareGPT name it."""
_PASSED = ("name", "tool_call_id")
_REFUSED = (
    *("reasoning_content", "reasoning", "thinking"),
    *("image", "images", "audio", "audios", "video", "videos", "weight", "train"),
)
"""Keys that the loss or the text would need, and that are not read."""
_CALLS = ("tool_calls", "function_call")
_MAY_BE_EMPTY = ("system", "developer", "tool")
_WHOLE_WEIGHT = (1, 1.0, True)


class Turns(NamedTuple):
    """A conversation.

    Attributes:
        messages: of all speakers.
        first: the first of them that the loss may be on.
        tools: that the assistant may call.
    """

    messages: list[Message]
    first: int = 0
    tools: Sequence[Tool] = ()


def parsed(value: Any, field: str) -> list[Message]:
    """The messages of a field as the chat template gets them.

    Args:
        value: a list of messages, or the same as a text of JSON.
        field: its name, for the messages of errors.

    Raises:
        ValueError: beginning with a verb: for another value, no messages, an unknown role, a
            message without text or calls, and for keys that would be lost, such as ``reasoning``.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"has no list of messages in field {field!r}") from None
    if not isinstance(value, list | tuple):
        raise ValueError(f"has no list of messages in field {field!r}, but {shown(value)}")
    if not len(value):
        raise ValueError(f"has no message in field {field!r}: the conversation is empty")
    return [
        _message(one, f"message {number} of field {field!r}") for number, one in enumerate(value)
    ]


def stored(value: Any, field: str) -> list[Message]:
    """The messages of a record that was read, which are a text of JSON; others are parsed."""
    if isinstance(value, str):
        found: list[Message] = json.loads(value)
        return found
    return parsed(value, field)


def keys(value: Any) -> set[str]:
    """The keys of the messages of a field that are not read."""
    if not isinstance(value, list | tuple):
        return set()
    known = {*_PASSED, *_CALLS, *_REFUSED, *(key for pair in KEYS for key in pair)}
    return {key for one in value if isinstance(one, Mapping) for key in one if key not in known}


def require_answer(turns: Turns) -> None:
    """Raise ``ValueError`` for a conversation without an assistant turn that the loss may be on."""
    if not any(message["role"] == "assistant" for message in turns.messages[turns.first :]):
        roles = ", ".join(dict.fromkeys(message["role"] for message in turns.messages))
        raise ValueError(f"has no assistant turn to learn, only {roles}")


def require_encodable(text: str, where: str) -> None:
    """Raise ``ValueError`` for what no UTF-8 can hold, and so no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise ValueError(
            f"has half a character, the lone surrogate U+{code:04X}, in {where}; write the "
            "character in full"
        ) from None


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise ValueError(
            f"has {shown(value)} as {where}; it must be an object with role and content"
        )
    pair = next((pair for pair in KEYS if value.get(pair[0]) is not None), None)
    if pair is None:
        raise ValueError(f"has no role in {where}; its keys are {', '.join(map(str, value))}")
    said = value[pair[0]]
    if not isinstance(said, str) or said not in ROLES:
        raise ValueError(
            f"has the unknown role {shown(said)} in {where}; known are {', '.join(ROLES)}"
        )
    for key in _REFUSED:
        given = value.get(key)
        if key in ("weight", "train") and given in _WHOLE_WEIGHT:
            continue
        if given is not None and given not in ("", [], {}):
            raise ValueError(
                f"has {key!r} in {where}, which is not read; write what the model shall see into "
                f"{pair[1]!r}, or take it out"
            )
    role = ROLES[said]
    content = _text(value.get(pair[1]), where, pair[1])
    calls = tool_calls.parsed(value, where)
    if calls and role != "assistant":
        raise ValueError(f"has tool calls in {where} ({said}); only the assistant calls tools")
    if not content.strip() and not calls and role not in _MAY_BE_EMPTY:
        raise ValueError(f"has no text in {where} ({said})")
    require_encodable(content + (json.dumps(calls, ensure_ascii=False) if calls else ""), where)
    passed: Message = {key: value[key] for key in _PASSED if isinstance(value.get(key), str)}
    if calls:
        passed["tool_calls"] = calls
    return {"role": role, "content": content, **passed}


def _text(content: Any, where: str, key: str) -> str:
    """The text of a message, which may come in parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content):
        for part in content:
            if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
                raise ValueError(
                    f"has a part of type {shown(part.get('type'))} in {where}; text alone is read"
                )
        return "".join(part["text"] for part in content)
    raise ValueError(f"has {shown(content)} as {key!r} of {where}; it must be text")
