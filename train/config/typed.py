"""Dataclasses from dictionaries of plain values, each checked against its annotation."""

import ast
import contextlib
import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from absl import flags
from ml_collections import config_flags
from ml_collections.config_dict import FieldReference, placeholder

from .names import require_known


def fields(cls: Any) -> dict[str, Any]:
    """Defaults of a dataclass. A field without one, or that may be None, is a placeholder.

    A field that is a dataclass itself is a dictionary of its own.
    """
    result: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        hint = typing.get_type_hints(cls)[field.name]
        if dataclasses.is_dataclass(hint):
            result[field.name] = fields(hint)
            continue
        value = None if field.default is dataclasses.MISSING else field.default
        kinds = [kind for kind in _kinds(hint) if kind is not types.NoneType]
        if len(kinds) > 1:  # a number or a word
            value = FieldReference(value, field_type=object)
        elif value is None:
            value = placeholder(kinds[0])
        result[field.name] = value
    return result


def names(cls: Any) -> list[str]:
    """Names of the fields of a dataclass, and ``field.inner`` for those of fields that are one."""
    result = []
    for field in dataclasses.fields(cls):
        hint = typing.get_type_hints(cls)[field.name]
        inner = names(hint) if dataclasses.is_dataclass(hint) else []
        result += [field.name, *(f"{field.name}.{name}" for name in inner)]
    return result


def build(cls: Any, tree: Mapping[str, Any], where: str, **given: Any) -> Any:
    """An instance of a dataclass from a dictionary, every value checked against its annotation.

    Args:
        cls: the dataclass.
        tree: field -> value; lists stand for tuples, integers for floats.
        where: how errors name the dictionary.
        **given: fields that are made already.

    Raises:
        ValueError: for an unknown, missing or ill-typed field, and what the class itself refuses;
            an error of the class that begins with a field's name gets ``where`` before it.
    """
    hints = typing.get_type_hints(cls)
    for key in tree:
        require_known(f"{where}.{key}", {f"{where}.{hint}" for hint in hints})
    values = {key: checked(hints[key], value, f"{where}.{key}") for key, value in tree.items()}
    for field in dataclasses.fields(cls):
        if field.default is field.default_factory is dataclasses.MISSING and field.name not in {
            **values,
            **given,
        }:
            raise ValueError(f"{where}.{field.name} is missing; give it a value")
    try:
        return cls(**values, **given)
    except ValueError as error:
        names_field = re.split(r"\W", str(error), maxsplit=1)[0] in hints
        raise ValueError(f"{where}{'.' if names_field else ': '}{error}") from None


def checked(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the annotation ``hint`` wants it.

    Raises:
        ValueError: naming the field ``where``, its value and the remedy.
    """
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        if value is None and types.NoneType in args:
            return None
        kinds = [kind for kind in args if kind is not types.NoneType]
        if len(kinds) == 1:
            return checked(kinds[0], value, where)
        for kind in kinds:
            with contextlib.suppress(ValueError):
                return checked(kind, value, where)
        raise ValueError(f"{where} is {value!r}; it must be {_described(kinds)}")
    if value is None:
        raise ValueError(f"{where} is not set; pass --{where}=...")
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{where} is {value!r}; choose one of {args}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(checked(args[0], item, where) for item in value)
    kind = origin or hint
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where} is {value!r}, a {type(value).__name__}; it must be {hint}")
    return value


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    return typing.get_args(hint) if _is_union(hint) else (hint,)


def _described(kinds: Sequence[Any]) -> str:
    """``an int or 'longest'``."""
    words = [
        " or ".join(map(repr, typing.get_args(kind)))
        if typing.get_origin(kind) is Literal
        else f"an {kind.__name__}"
        for kind in kinds
    ]
    return " or ".join(words)


class _NumberOrWord(flags.ArgumentParser):
    """Of flags for fields that take either."""

    def parse(self, argument: Any) -> Any:
        try:
            return ast.literal_eval(argument) if isinstance(argument, str) else argument
        except (ValueError, SyntaxError):
            return argument


config_flags.register_flag_parser_for_type(object, _NumberOrWord())
