"""Kinds of records: the fields that each uses, those that it refuses, and what they become.

A new kind is a row of :data:`TABLE`.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .. import tasks
from ..config import DataConfig

Record = Mapping[str, Any]

TEXT, TEXTS = "text", "list"
"""Kinds of fields: a text, and a list of texts."""

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
    """

    name: str
    templates: tuple[str, ...]
    fields: Mapping[str, str]
    optional: tuple[str, ...]
    answer: str
    prompt: Callable[[Record, DataConfig, bool], str]
    response: Callable[[Record, DataConfig], str]

    @functools.cached_property
    def refused(self) -> frozenset[str]:
        """Fields of other kinds, which would be lost: a record may have them, but empty."""
        return frozenset(_TASK.split()).difference(self.fields)

    def used(self, record: Any, template: str, answered: bool = True) -> dict[str, Any]:
        """The fields of a record that are used.

        Args:
            record: of a file.
            template: of ``config.data.prompt``, for the messages.
            answered: whether the response must be there.

        Raises:
            ValueError: beginning with a verb, for the record to be named before it.
        """
        if not isinstance(record, Mapping):
            what = json.dumps(record)
            raise ValueError(f"is {what[:40]}, but must be an object with fields")
        found = {}
        for field, kind in self.fields.items():
            value = record.get(field)
            if field == self.answer and not answered and not _is(kind, value):
                continue
            if field in self.optional and _is_empty(value):
                if field in record:
                    found[field] = value if isinstance(value, str) else None
                continue
            if not _is(kind, value):
                raise ValueError(self._lacks(field, kind, value, template))
            _require_whole(field, value)
            found[field] = value
        for field in sorted(self.refused & record.keys()):
            if not _is_empty(record[field]):
                raise ValueError(
                    f"has something in field {field!r}, which config.data.prompt={template} does "
                    f"not use; write it into {', '.join(self.fields)}, or take it out"
                )
        return found

    def unused(self, fields: Iterable[str]) -> set[str]:
        """Those of the fields of a record that are not read."""
        return set(fields) - self.fields.keys()

    def identity(self, record: Record) -> bytes:
        """What says whether two records are the same: all fields that are used, as JSON."""
        values = [None if _is_empty(record.get(field)) else record[field] for field in self.fields]
        return json.dumps(values).encode() + b"\n"

    def _lacks(self, field: str, kind: str, value: Any, template: str) -> str:
        if field in self.optional:
            return f"has a value of type {type(value).__name__} in field {field!r}; it must be text"
        needed = sorted(self.fields.keys() - set(self.optional))
        return (
            f"has no {kind} in field {field!r}; with config.data.prompt={template} each record "
            f"needs {needed}"
        )


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {}) or (isinstance(value, str) and not value.strip())


def _is(kind: str, value: Any) -> bool:
    if kind == TEXT:
        return isinstance(value, str) and bool(value.strip())
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _require_whole(field: str, value: Any) -> None:
    """Refuse what no UTF-8 can hold, and so no tokenizer reads."""
    try:
        ("".join(value)).encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise ValueError(
            f"has half a character, the lone surrogate U+{code:04X}, in field {field!r}; write the "
            "character in full"
        ) from None


def _prompt(record: Record, config: DataConfig, inference: bool) -> str:
    return tasks.prompt(record, config.prompt, config.history, inference)


def _response(record: Record, config: DataConfig) -> str:
    return tasks.response(record, config.prompt)


TABLE = (
    Format(
        name="alpaca",
        templates=("hira", "llm-adapters"),
        fields={"instruction": TEXT, "input": TEXT, "output": TEXT},
        optional=("input",),
        answer="output",
        prompt=_prompt,
        response=_response,
    ),
    Format(
        name="convai2",
        templates=("convai2",),
        fields={"persona": TEXTS, "history": TEXTS, "output": TEXT},
        optional=(),
        answer="output",
        prompt=_prompt,
        response=_response,
    ),
)
"""All kinds of records."""


def of_template(template: str) -> Format:
    """The row of :data:`TABLE` for a value of ``config.data.prompt``.

    Raises:
        ValueError: when there is none.
    """
    for row in TABLE:
        if template in row.templates:
            return row
    known = [name for row in TABLE for name in row.templates]
    raise ValueError(f"config.data.prompt is {template!r}; choose one of {', '.join(known)}")
