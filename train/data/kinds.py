"""What a kind of records is: its fields, those that it refuses, and what becomes of them."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from ..config import DataConfig
from .conversations import messages, tools
from .conversations.messages import Turns

Record = Mapping[str, Any]

TEXT, TEXTS, TURNS, TOOLS = "text", "list", "messages", "tools"
"""Kinds of fields: a text, a list of texts, and lists of messages and tools, kept as JSON."""

ROW = "row"
"""The column that says which record of a file this was."""

_TASK = (
    "instruction input output system history persona context passage question query response "
    "completion messages conversations chosen rejected image images audio audios video videos tools"
)
"""Fields that hold a part of the task in one kind of records or another."""


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of records.

    Attributes:
        name: for messages.
        templates: values of ``config.data.prompt`` that read it.
        fields: that are used, and their kinds. A text has more than white space.
        optional: fields that may be absent or empty.
        answer: the field that the response is made of.
        prompt: the text of a record that the model completes; it gets the record, the
            configuration, and whether the prompt is for inference.
        response: the text that follows at once.
        messages: the record as a conversation for the chat template; None where it is none.
        refuses: fields that are refused beside those of other kinds.
    """

    name: str
    templates: tuple[str, ...]
    fields: Mapping[str, str]
    optional: tuple[str, ...]
    answer: str
    prompt: Callable[[Record, DataConfig, bool], str]
    response: Callable[[Record, DataConfig], str]
    messages: Callable[[Record], Turns] | None = None
    refuses: tuple[str, ...] = ()

    @functools.cached_property
    def refused(self) -> frozenset[str]:
        """Fields of other kinds, which would be lost: a record may have them, but empty."""
        return frozenset([*_TASK.split(), *self.refuses]).difference(self.fields)

    @functools.cached_property
    def needed(self) -> list[str]:
        """Fields that a record must have."""
        return sorted(self.fields.keys() - set(self.optional))

    def fits(self, record: Record, answered: bool = True) -> bool:
        """Whether a record has the fields of this kind; their values may still be wrong."""
        return all(
            field in record and self._may_be(field, record[field])
            for field in self.needed
            if answered or field != self.answer
        )

    def is_full(self, record: Record) -> bool:
        """Whether it has them, and something in each."""
        return self.fits(record) and not any(is_empty(record[field]) for field in self.needed)

    def _may_be(self, field: str, value: Any) -> bool:
        kind = self.fields[field]
        if kind == TURNS:
            return isinstance(value, list | tuple) or _is_json_list(value)
        return not (kind == TEXT and (isinstance(value, list | tuple) or _is_json_list(value)))

    def used(
        self, record: Any, template: str, answered: bool = True, mapped: bool = False
    ) -> dict[str, Any]:
        """The fields of a record that are used.

        Args:
            record: of a file.
            template: of ``config.data.prompt``, for the messages.
            answered: whether the response must be there.
            mapped: whether the columns were named, and others are to be left aside.

        Raises:
            ValueError: beginning with a verb, for the record to be named before it.
        """
        if not isinstance(record, Mapping):
            what = json.dumps(record)
            raise ValueError(f"is {what[:40]}, but must be an object with fields")
        found: dict[str, Any] = {}
        for field, kind in self.fields.items():
            value = record.get(field)
            if field == self.answer and not answered and not _is(kind, value):
                continue
            if field in self.optional and is_empty(value):
                if field in record:
                    found[field] = value if isinstance(value, str) else None
                continue
            if kind in (TURNS, TOOLS):
                found[field] = _as_json(field, value)
                continue
            if not _is(kind, value):
                raise ValueError(self._lacks(field, kind, value, template))
            messages.require_encodable("".join(value or ""), f"field {field!r}")
            found[field] = value
        for field in () if mapped else sorted(self.refused & record.keys()):
            if not is_empty(record[field]):
                raise ValueError(
                    f"has something in field {field!r}, which config.data.prompt={template} does "
                    f"not use; write it into {', '.join(self.fields)}, or take it out"
                )
        if self.messages is not None and answered:
            messages.require_answer(self.messages(found))
        return found

    def unused(self, record: Record) -> set[str]:
        """The fields of a record that are not read, and the keys of its messages."""
        inner = {
            f"{field}.{key}"
            for field, kind in self.fields.items()
            if kind == TURNS
            for key in messages.keys(record.get(field))
        }
        return {*record} - self.fields.keys() | inner

    def identity(self, record: Record) -> bytes:
        """What says whether two records are the same: all fields that are used, as JSON."""
        values = [
            None if is_empty(record.get(field)) else record[field]
            for field, kind in self.fields.items()
            if kind != TOOLS or not is_empty(record.get(field))  # most records have none
        ]
        return json.dumps(values).encode() + b"\n"

    @property
    def heading(self) -> str:
        """What says of which kind all of them are."""
        fields = (field for field, kind in self.fields.items() if kind != TOOLS)
        return f"{self.name}: {', '.join(fields)}\n"

    def _lacks(self, field: str, kind: str, value: Any, template: str) -> str:
        if field in self.optional:
            return f"has a value of type {type(value).__name__} in field {field!r}; it must be text"
        return (
            f"has no {kind} in field {field!r}; with config.data.prompt={template} each record "
            f"needs {self.needed}"
        )


def is_empty(value: Any) -> bool:
    """Whether a value is none: nothing, an empty list or object, or white space."""
    return value is None or value in ("", [], {}) or (isinstance(value, str) and not value.strip())


def _is_json_list(value: Any) -> bool:
    """Whether a text is a list of messages, as a table of texts may hold them."""
    if not (isinstance(value, str) and value.lstrip().startswith("[")):
        return False
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return False
    names = {pair[0] for pair in messages.KEYS}
    return bool(found) and all(isinstance(one, dict) and names & one.keys() for one in found)


def _is(kind: str, value: Any) -> bool:
    if kind == TEXT:
        return isinstance(value, str) and bool(value.strip())
    if kind == TURNS:
        return not is_empty(value)
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _as_json(field: str, value: Any) -> str:
    if field == "history":
        return json.dumps(pairs(value), ensure_ascii=False)
    if field == "tools":
        found = tools.parsed(value)
        text = json.dumps(found, ensure_ascii=False) if found else ""
        messages.require_encodable(text, "field 'tools'")
        return text
    return json.dumps(messages.parsed(value, field), ensure_ascii=False)


def pairs(value: Any) -> list[list[str]]:
    """Earlier turns of Alpaca records as LLaMA-Factory has them: a question and its answer each.

    Args:
        value: a list of pairs of texts, or the same as a text of JSON.

    Raises:
        ValueError: beginning with a verb, for another value.
    """
    found = value
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(value)
    if not isinstance(found, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(_is(TEXT, one) for one in pair)
        for pair in found
    ):
        raise ValueError("has no list of pairs of texts in field 'history'")
    for pair in found:
        messages.require_encodable("".join(pair), "field 'history'")
    return [[*pair] for pair in found]
