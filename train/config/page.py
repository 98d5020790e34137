"""The page of the docs with every field of a configuration.

    python -m train.config.page > docs/configuration.md

Names, types, defaults and meanings are those of the classes that check a configuration.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from tera_jax.methods import TABLE, method_class

from .data import ColumnsConfig
from .listing import field_docs
from .schema import EXPORTS, classes
from .sections import MethodConfig

_HEAD = """# Configuration

A run is described by one configuration, in sections. Each field is a flag of `python -m
train.main`, such as `--config.optim.learning_rate=3e-3`. It is a setting of `tera_jax.finetune`
too, such as `learning_rate=3e-3`. A recipe (`--config=sft`) sets some fields, and `--print-config`
lists all of them with the values of a command.

The defaults below are those before a recipe. `python -m train.config.page` prints this page.
"""
_COLUMNS = "| field | type | default | meaning |\n| --- | --- | --- | --- |"


def page() -> str:
    """The text of docs/configuration.md."""
    return "\n".join(_parts())


def _parts() -> Iterator[str]:
    yield _HEAD
    for section, cls in classes("tera").items():
        yield f"## config.{section}\n"
        if section == "method":
            yield from _methods()
            continue
        yield f"{_summary(cls)}\n"
        yield from _table(cls)
        if section == "data":
            yield "### config.data.columns\n"
            yield f"{_summary(ColumnsConfig)}\n"
            yield from _table(ColumnsConfig)
    yield "## config.export\n"
    names = ", ".join(f"`{name}`" for name in EXPORTS)
    yield f"What is written at the end of a run, of {names}. A tuple; by default `()`."


def _methods() -> Iterator[str]:
    docs, hints = field_docs(MethodConfig), typing.get_type_hints(MethodConfig)
    yield f"{_summary(MethodConfig)}\n\n{_COLUMNS}"
    for name, default in {"name": "required", "targets": "the method's"}.items():
        yield f"| `{name}` | {_type(hints[name])} | {default} | {_plain(docs[name])} |"
    yield "\nThe other fields, and the default of `targets`, belong to the method.\n"
    classes_before: dict[Any, str] = {}
    for method in TABLE:
        cls = method_class(method)
        targets = ", ".join(f"`{target}`" for target in cls.default_targets)
        yield f"### {method}\n\n{_summary(cls)}{f' Targets: {targets}.' if targets else ''}\n"
        base = next((base for base in cls.__mro__ if base in classes_before), None)
        if base is not None and _names(base) == _names(cls):
            yield f"The fields of `{classes_before[base]}`, but for {_differences(base, cls)}.\n"
        elif dataclasses.fields(cls):
            yield from _table(cls)
        classes_before[cls] = method


def _names(cls: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _differences(base: Any, cls: Any) -> str:
    """The defaults of a class that its base has not."""
    pairs = zip(dataclasses.fields(base), dataclasses.fields(cls), strict=True)
    return ", ".join(f"`{b.name}={b.default!r}`" for a, b in pairs if a.default != b.default)


def _table(cls: Any) -> Iterator[str]:
    docs, hints = field_docs(cls), typing.get_type_hints(cls)
    yield _COLUMNS
    for field in dataclasses.fields(cls):
        hint, default = hints[field.name], _default(field)
        if dataclasses.is_dataclass(hint):
            kind = default = "below"
        else:
            kind = _type(hint)
        yield f"| `{field.name}` | {kind} | {default} | {_plain(docs[field.name])} |"
    yield ""


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    return f"`{field.default!r}`".replace("|", r"\|")  # a bar would end the cell


def _type(hint: Any) -> str:
    """``int or None``; the values of a choice."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(map(_type, typing.get_args(hint)))
    if typing.get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"tuple of {_type(typing.get_args(hint)[0])}"
    return "None" if hint is types.NoneType else hint.__name__


def _summary(cls: Any) -> str:
    """The first paragraph of a class's docstring."""
    return _plain(inspect.cleandoc(cls.__doc__).partition("\n\n")[0])


def _plain(text: str) -> str:
    """One line of Markdown for reStructuredText's spans, which a cell of a table can hold."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`").replace("|", r"\|")


if __name__ == "__main__":
    print(page())
