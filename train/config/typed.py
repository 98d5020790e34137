"""Dataclasses from dictionaries of plain values, each checked against its annotation."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from ml_collections.config_dict import placeholder


def fields(cls: Any) -> dict[str, Any]:
    """Defaults of a dataclass. A field without one, or that may be None, is a placeholder."""
    result = {}
    for field in dataclasses.fields(cls):
        hint = typing.get_type_hints(cls)[field.name]
        value = None if field.default is dataclasses.MISSING else field.default
        if value is None:
            (kind,) = [h for h in typing.get_args(hint) or (hint,) if h is not types.NoneType]
            value = placeholder(kind)
        result[field.name] = value
    return result


def build(cls: Any, tree: Mapping[str, Any], where: str, **given: Any) -> Any:
    """An instance of a dataclass from a dictionary, every value checked against its annotation.

    Args:
        cls: the dataclass.
        tree: field -> value; lists stand for tuples, integers for floats.
        where: how errors name the dictionary.
        **given: fields that are made already.

    Raises:
        ValueError: for an unknown, missing or ill-typed field, and what the class itself refuses.
    """
    hints = typing.get_type_hints(cls)
    for key in tree:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"the keys are {sorted(hints)}"
            raise ValueError(f"unknown config key {where}.{key}; {remedy}")
    values = {key: checked(hints[key], value, f"{where}.{key}") for key, value in tree.items()}
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING and field.name not in {**values, **given}:
            raise ValueError(f"{where}.{field.name} is missing; give it a value")
    try:
        return cls(**values, **given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def checked(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the annotation ``hint`` wants it.

    Raises:
        ValueError: naming the field ``where``, its value and the remedy.
    """
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (hint,) = [arg for arg in args if arg is not types.NoneType]
        return checked(hint, value, where)
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
