"""Kinds of records, as a table, and how a record is known by its fields.

A new kind is a row of :data:`TABLE`.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .. import tasks
from ..config import DataConfig
from .conversations import messages, tools
from .conversations.messages import Message, Turns
from .kinds import TEXT, TEXTS, TOOLS, TURNS, Format, Record, is_empty, pairs

_NAMED = 20
_OTHER_KINDS = {
    "chosen": "a preference pair",
    "rejected": "a preference pair",
    **dict.fromkeys(("image", "images"), "a record with images"),
    **dict.fromkeys(("audio", "audios"), "a record with audio"),
    **dict.fromkeys(("video", "videos"), "a record with video"),
}
"""What a field that is not empty says a record is."""


def _prompt(record: Record, config: DataConfig, inference: bool) -> str:
    return tasks.prompt(record, config.prompt, config.history, inference)


def _response(record: Record, config: DataConfig) -> str:
    return tasks.response(record, config.prompt)


def _shown(record: Record, config: DataConfig, inference: bool) -> str:
    """The turns before the answer, for files of answers; the model sees the chat template."""
    convert = of_record(config.prompt, record).messages
    assert convert is not None
    turns = asked(convert(record).messages)
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _answer(record: Record, config: DataConfig) -> str:
    convert = of_record(config.prompt, record).messages
    assert convert is not None
    turns = convert(record).messages
    return turns[-1]["content"] if len(asked(turns)) < len(turns) else ""


def asked(turns: Sequence[Message]) -> list[Message]:
    """The turns that an answer is asked for: all, but for a last one of the assistant."""
    ends = bool(turns) and turns[-1]["role"] == "assistant"
    return [*turns[: len(turns) - ends]]


def _system(record: Record) -> list[Message]:
    given = record.get("system")
    return [] if is_empty(given) else [{"role": "system", "content": str(given)}]


def _turn(role: str, content: Any) -> list[Message]:
    return [] if is_empty(content) else [{"role": role, "content": content}]


def _from_alpaca(record: Record) -> Turns:
    asked_ = record["instruction"]
    if not is_empty(record.get("input")):
        asked_ = f"{asked_}\n\n{record['input']}"
    earlier = [] if is_empty(record.get("history")) else pairs(record["history"])
    turns = [
        turn
        for question, answer in earlier
        for turn in _turn("user", question) + _turn("assistant", answer)
    ]
    last = _turn("user", asked_) + _turn("assistant", record.get("output"))
    return Turns([*_system(record), *turns, *last])


def _from_texts(record: Record) -> Turns:
    last = _turn("user", record["prompt"]) + _turn("assistant", record.get("completion"))
    return Turns([*_system(record), *last])


def _from_parts(record: Record) -> Turns:
    first = [*_system(record), *messages.stored(record["prompt"], "prompt")]
    given = tools.parsed(record.get("tools"))
    if is_empty(record.get("completion")):
        return Turns(first, len(first), given)
    last = messages.stored(record["completion"], "completion")
    return Turns([*first, *last], len(first), given)


def _from_messages(field: str) -> Callable[[Record], Turns]:
    def convert(record: Record) -> Turns:
        turns = messages.stored(record[field], field)
        begins = turns[0]["role"] in ("system", "developer")
        whole = turns if begins else [*_system(record), *turns]
        return Turns(whole, tools=tools.parsed(record.get("tools")))

    return convert


def _conversation(
    name: str, convert: Callable[[Record], Turns], answer: str, *optional: str, **fields: str
) -> Format:
    """A row for what becomes a conversation."""
    return Format(name, ("auto",), fields, optional, answer, _shown, _answer, convert)


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
    *(
        _conversation(field, _from_messages(field), "", "system", "tools",
                      **{field: TURNS, "system": TEXT, "tools": TOOLS})
        for field in ("messages", "conversations")
    ),
    _conversation(
        "alpaca", _from_alpaca, "output", *("input", "system", "history"),
        instruction=TEXT,
        input=TEXT,
        system=TEXT,
        history=TURNS,
        output=TEXT,
    ),
    _conversation(
        "prompt/completion", _from_texts, "completion", "system",
        prompt=TEXT, system=TEXT, completion=TEXT,
    ),
    _conversation(
        "prompt/completion of messages", _from_parts, "completion", "system", "tools",
        prompt=TURNS, system=TEXT, tools=TOOLS, completion=TURNS,
    ),
    Format(
        name="convai2",
        templates=("convai2", "auto"),
        fields={"persona": TEXTS, "history": TEXTS, "output": TEXT},
        optional=(),
        answer="output",
        prompt=lambda record, config, inference: tasks.prompt(
            record, "convai2", config.history, inference
        ),
        response=lambda record, config: tasks.response(record, "convai2"),
    ),
    Format(
        name="prompt/completion",
        templates=("plain",),
        fields={"prompt": TEXT, "completion": TEXT},
        optional=(),
        answer="completion",
        prompt=lambda record, config, inference: record["prompt"],
        response=lambda record, config: record["completion"],
    ),
    Format(
        name="text",
        templates=("auto", "plain"),
        fields={"text": TEXT},
        optional=(),
        answer="",
        prompt=lambda record, config, inference: record["text"] if inference else "",
        response=lambda record, config: record["text"],
        refuses=("prompt", "answer"),
    ),
)  # fmt: skip
"""All kinds of records. Of two that a record fits, ``auto`` takes the first."""


def of_template(template: str) -> Format:
    """The row of :data:`TABLE` for a named template of ``config.data.prompt``.

    Raises:
        ValueError: when there is none.
    """
    for row in TABLE:
        if template in row.templates and template not in ("auto", "plain"):
            return row
    known = [name for row in TABLE for name in row.templates if name not in ("auto", "plain")]
    raise ValueError(f"config.data.prompt is {template!r}; choose one of {', '.join(known)}")


def of_record(template: str, record: Record) -> Format:
    """The row of a record that was read: of its template, or by its fields.

    Raises:
        ValueError: beginning with a verb, when no row of the template has its fields.
    """
    if template not in ("auto", "plain"):
        return of_template(template)
    found = recognised(template, record, answered=False)
    if found is None:
        raise ValueError(_of_no_kind(template, record))
    return found


def recognised(template: str, record: Record, answered: bool = True) -> Format | None:
    """The row of ``auto`` or ``plain`` whose fields a record has, best with something in each.

    Args:
        template: one of the two.
        record: that was read, or is to be.
        answered: whether the response must be there.
    """
    rows = [row for row in TABLE if template in row.templates]
    tests: tuple[Callable[[Format], bool], ...] = (
        lambda row: row.is_full(record),
        lambda row: row.fits(record),
        lambda row: not answered and bool(row.answer) and row.fits(record, answered=False),
    )
    return next((row for test in tests for row in rows if test(row)), None)


def require_known(
    template: str, record: Any, answered: bool = True, mapped: bool = False
) -> Format:
    """As :func:`of_record` for a record of a file, which may be anything.

    Args:
        template: ``auto`` or ``plain``.
        record: of a file.
        answered: whether the response must be there.
        mapped: whether the columns were named.

    Raises:
        ValueError: beginning with a verb: for preference pairs, images, audio and video by name,
            unless the columns are named, and for what is of no kind.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"is {json.dumps(record)[:40]}, but must be an object with fields")
    for field, what in {} if mapped else _OTHER_KINDS.items():
        if not is_empty(record.get(field)):
            raise ValueError(
                f"is {what} (field {field!r}), which is not trained on here; name the columns to "
                "use with config.data.columns.prompt and config.data.columns.completion"
            )
    found = recognised(template, record, answered)
    if found is None:
        raise ValueError(_of_no_kind(template, record))
    return found


def require_same(kind: Format, template: str, record: Any) -> None:
    """Raise ``ValueError``, beginning with a verb, for a record of another kind than ``kind``."""
    if isinstance(record, Mapping) and not kind.is_full(record):
        other = recognised(template, record)
        if other is not None and other is not kind and other.is_full(record):
            raise ValueError(
                f"is of kind {other.name}, but those before it are of kind {kind.name}; give each "
                "kind a file of its own"
            )


def mapped(record: Any, columns: Mapping[str, str]) -> Any:
    """A record of the named columns alone, by the names of fields.

    Raises:
        ValueError: beginning with a verb, for a column that it lacks, with the nearest names.
    """
    if not isinstance(record, Mapping) or not columns:
        return record
    for field, column in columns.items():
        if column not in record:
            names = [*map(str, record)]
            near = difflib.get_close_matches(column.lower(), [name.lower() for name in names])
            near = [name for name in names if name.lower() in near]
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise ValueError(
                f"has no column {column!r}, which config.data.columns.{field} names; {hint}"
                f"Its columns are {', '.join(names[:_NAMED])}"
            )
    return {field: record[column] for field, column in columns.items()}


def prompt_text(record: Record, config: DataConfig, inference: bool = False) -> str:
    """The prompt of a record as text; a conversation as its turns, a paragraph each."""
    return of_record(config.prompt, record).prompt(record, config, inference)


def kinds(template: str) -> str:
    """The kinds of ``auto`` or ``plain`` and the fields that each needs."""
    rows = [row for row in TABLE if template in row.templates]
    return "; ".join(dict.fromkeys(f"{row.name}: {', '.join(row.needed)}" for row in rows))


def _of_no_kind(template: str, record: Iterable[str]) -> str:
    fields = ", ".join(map(str, [*record][:_NAMED]))
    return (
        f"has the fields {fields or 'none'}, which are of no kind that config.data.prompt="
        f"{template} reads ({kinds(template)}); name them, as with "
        "--config.data.columns.prompt=question --config.data.columns.completion=answer"
    )
