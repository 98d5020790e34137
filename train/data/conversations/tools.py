"""The tools that a conversation may call: a list beside its messages, for the chat template."""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2 import meta

from tera_jax.json_files import shown

Tool = dict[str, Any]
"""A description of a function, most often as OpenAI has it; a template gets it as it is."""

_MARKS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
_WORD = re.compile(r"\btools\b")


def parsed(value: Any) -> list[Tool]:
    """The tools of a record.

    Args:
        value: a list of objects, or the same as a text of JSON; None and the empty list are none.

    Raises:
        ValueError: beginning with a verb, for another value, and for a tool without a name.
    """
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            raise ValueError("has no list of tools in field 'tools', but another text") from None
    if found is None:
        return []
    if not isinstance(found, list | tuple):
        raise ValueError(f"has no list of tools in field 'tools', but {shown(found)}")
    for number, one in enumerate(found):
        given = one.get("function", one) if isinstance(one, Mapping) else None
        if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
            raise ValueError(
                f"has {shown(one)} as tool {number} of field 'tools'; it must be an object with "
                "'function', which has 'name', 'description' and 'parameters'"
            )
    return [*found]


def require_read(template: str) -> None:
    """Raise ``ValueError``, beginning with a verb, where a chat template does not read tools."""
    if not are_read(template):
        raise ValueError(
            "has 'tools', which the chat template does not read; write them into the system turn, "
            "take them out, or set config.data.chat_template to a template that reads tools"
        )


@functools.cache
def are_read(template: str) -> bool:
    """Whether a template reads the variable ``tools``. A text or a comment with the word does not.

    A template that Jinja cannot parse reads what it names: its error is told when it is rendered.
    """
    if not _WORD.search(template):
        return False
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)
    try:
        tree = environment.parse(_MARKS.sub("", template))
        return "tools" in meta.find_undeclared_variables(tree)
    except jinja2.TemplateSyntaxError:
        return True
