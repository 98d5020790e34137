"""Calls of tools in messages: one form for chat templates, and a text where they read none."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tera_jax.json_files import shown


def parsed(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The calls of a message, as chat templates read them.

    Args:
        message: with ``tool_calls``, or with OpenAI's earlier ``function_call``, or neither.
        where: which message this is, for errors.

    Returns:
        For each call ``type``, ``function`` with ``name`` and ``arguments``, and ``id`` if it has
        one. Arguments that are the JSON text of an object become that object.

    Raises:
        ValueError: beginning with a verb, when the calls have another form.
    """
    calls = message.get("tool_calls") or []
    if isinstance(calls, str) or not isinstance(calls, Sequence):
        raise ValueError(f"has {shown(calls)} as 'tool_calls' of {where}; it must be a list")
    if not calls and message.get("function_call"):
        calls = [message["function_call"]]
    return [_call(one, where) for one in calls]


def as_text(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose calls are written into its content, each as Hermes models write them."""
    if "tool_calls" not in message:
        return message
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message["tool_calls"]]
    texts = [message["content"], *(f"<tool_call>\n{call}\n</tool_call>" for call in calls)]
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return rest | {"content": "\n".join(text for text in texts if text)}


def _call(value: Any, where: str) -> dict[str, Any]:
    given = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ValueError(
            f"has {shown(value)} as a tool call in {where}; it must be an object with 'function', "
            "which has 'name' and 'arguments'"
        )
    arguments = given.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _object(arguments)
    elif not isinstance(arguments, Mapping):
        raise ValueError(
            f"has {shown(arguments)} as arguments of the tool call {given['name']!r} in {where}; "
            "they must be an object or its JSON text"
        )
    name = {"id": value["id"]} if isinstance(value.get("id"), str) else {}
    function = {"name": given["name"], "arguments": arguments}
    return {"type": "function", "function": function, **name}


def _object(text: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, dict) else text
