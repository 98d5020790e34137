"""JSON files: read within limits, then compared key by key with a table of what they may hold.

:func:`read` gives an object of plain values, or one error that names the file. :func:`typed` gives
the value or the default of every key of a table, or one error that names file, key and value.
Neither knows what a file means, and the order of keys never matters to them.
"""

import collections
import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Never, Union

LIMIT = 4 * 2**20
"""Bytes of a file. Python's values of the densest such file take about 100 MB."""
_DEPTH = 64
"""Objects and lists inside one another."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_REMEDY = "write the file again"

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "REQUIRED"})()
"""The default of a key that must be there."""


@dataclasses.dataclass(frozen=True)
class Key:
    """What one key of an object may hold.

    Attributes:
        kind: a type hint of ``bool``, ``int``, ``float``, ``str``, ``None``, ``list[...]``,
            ``dict[str, ...]``, ``Literal[...]``, ``Any`` and unions of them. An integer is a
            ``float`` too, and becomes one; ``true`` is neither. ``tuple[T, ...]`` is a list, and
            ``list[Never]`` an empty one.
        default: the value where the key is absent; :data:`REQUIRED` where it must be there.
        least: limit of a number, and of each number in a list or an object.
        above: the same, itself left out.
        below: the same, itself left out.
        remedy: what to do about another value, in place of the one given to :func:`typed`.
    """

    kind: Any
    default: Any = REQUIRED
    least: float = -math.inf
    above: float = -math.inf
    below: float = math.inf
    remedy: str = ""

    def takes(self, value: Any) -> bool:
        """Whether a value is of the kind and within the limits."""
        return matches(value, self.kind) and all(
            number >= self.least
            and (self.above == -math.inf or number > self.above)
            and (self.below == math.inf or number < self.below)
            for number in _numbers(value)
        )

    def __str__(self) -> str:
        limits = {"of at least": self.least, "above": self.above, "below": self.below}
        words = [f" {word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit)]
        return _described(self.kind) + " and".join(words)


def read(
    path: Path, limit: int = LIMIT, remedy: str = _REMEDY, integer_bits: int = 64
) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: of the file.
        limit: the most bytes that it may have.
        remedy: what the error advises.
        integer_bits: the largest integer that it may have; transformers writes 10^30 for "no limit"
            into the files of tokenizers.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a file above the limit, or as :func:`parse`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {remedy}")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path} is larger than {limit} bytes, too large for its kind; {remedy}")
    return parse(data, str(path), remedy, integer_bits)


def parse(data: bytes, where: str, remedy: str = _REMEDY, integer_bits: int = 64) -> dict[str, Any]:
    """The object that UTF-8 bytes hold.

    Args:
        data: the whole text.
        where: what errors call it.
        remedy: what the error advises.
        integer_bits: of the largest integer.

    Raises:
        ValueError: for other bytes than UTF-8, bad syntax, half of a surrogate pair, or a key that
            stands twice. For NaN, Infinity, and a number beyond its bits. For more than 64 objects
            and lists inside one another, or a top level that is no object.
    """
    try:
        text = data.decode("utf-8")
        content = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_float,
            parse_int=functools.partial(_int, bits=integer_bits),
        )
        if not isinstance(content, dict):
            raise ValueError("its top level is no object")
        _require_shallow(content)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError(f"{where} is not JSON ({_TOO_DEEP}); {remedy}") from None
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}); {remedy}") from None
    return content


def typed(
    where: str | Path,
    content: Mapping[str, Any],
    table: Mapping[str, Key],
    others: Literal["refuse", "ignore"] = "refuse",
    within: str = "",
    remedy: str = _REMEDY,
) -> dict[str, Any]:
    """The value of every key of a table, or its default.

    Args:
        where: the file, for errors.
        content: an object of it.
        table: what each key may hold.
        others: what happens to keys that the table lacks.
        within: for errors, what names the object inside of the file, such as ``"rope_scaling."``.
        remedy: what the error advises.

    Raises:
        ValueError: for a key that is missing or unknown, or a value that its row does not take.
    """
    unknown = [key for key in content if key not in table]
    if unknown and others == "refuse":
        raise ValueError(
            f"{where} has the unknown key {within + unknown[0]!r} "
            f"({shown(content[unknown[0]])}); {remedy}"
        )
    values: dict[str, Any] = {}
    for name, key in table.items():
        value = content.get(name, key.default)
        if value is REQUIRED:
            raise ValueError(f"{where} lacks {within}{name}, {key}; {key.remedy or remedy}")
        if name in content and not key.takes(value):
            raise ValueError(
                f"{where} sets {within}{name} to {shown(value)}, not {key}; {key.remedy or remedy}"
            )
        values[name] = float(value) if key.kind is float and type(value) is int else value
    return values


def matches(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a kind, as :class:`Key` has it."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind in (Any, Never):
        return kind is Any
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin in (Union, types.UnionType):
        return any(matches(value, each) for each in args)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(matches(each, args[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(matches(each, args[1]) for each in value.values())
    if kind is float:
        return type(value) in (int, float)
    return value is None if kind is None else type(value) is kind


def repeated(pairs: list[tuple[str, Any]]) -> str | None:
    """The first key that stands more than once among the pairs of an object, if one does."""
    counts = collections.Counter(name for name, _ in pairs)
    return next((name for name, count in counts.items() if count > 1), None)


def shown(value: Any) -> str:
    """A value as errors show it, cut after 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_TOO_DEEP = f"more than {_DEPTH} objects and lists inside one another"
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
    type(None): "null",
    None: "null",
    Any: "any value",
}


def finite(value: Any) -> Any:
    """A value as JSON can hold it: None for each number that is not finite.

    Named tuples and mappings become objects, and other tuples and lists become lists.
    """
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(name): finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _described(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " or ".join(map(json.dumps, args))
    if origin in (Union, types.UnionType):
        return " or ".join(map(_described, args))
    if origin in (list, tuple):
        return "an empty list" if args[0] is Never else f"a list, each entry {_described(args[0])}"
    if origin is dict:
        return (
            "an empty object"
            if args[1] is Never
            else f"an object, each value {_described(args[1])}"
        )
    return _WORDS[kind]


def _numbers(value: Any) -> Iterator[float]:
    """The numbers of a value and of a list or an object."""
    each = value.values() if isinstance(value, dict) else value
    for entry in each if isinstance(value, dict | list | tuple) else (value,):
        if type(entry) in (int, float):
            yield entry


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(f"the key {shown(repeated(pairs))} stands twice in an object")
    return content


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number of JSON")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is beyond 64 bits")
    return value


def _int(text: str, bits: int) -> int:
    if len(text) > bits or not -(2 ** (bits - 1)) <= (value := int(text)) < 2**bits:
        raise ValueError(f"the number {text[:40]} is beyond {bits} bits")
    return value


def _require_shallow(content: dict[str, Any]) -> None:
    level: list[Any] = [content]
    for _ in range(_DEPTH):
        children = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for each in children for child in each if isinstance(child, dict | list)]
        if not level:
            return
    raise ValueError(_TOO_DEEP)
