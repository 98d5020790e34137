"""Every field of a configuration with its value, its default and what it means."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from tera_jax.methods import method_class

from .schema import Config, classes, require_keys
from .sections import MethodConfig


def listing(config: ml_collections.ConfigDict) -> str:
    """The text of ``--print-config``. Fields may be unset.

    Raises:
        ValueError: for an unknown key or method.
    """
    tree = config.to_dict()
    method = tree["method"]["name"]
    require_keys(tree, method)
    return "\n".join(_entries(tree, method))


def _entries(tree: Mapping[str, Any], method: str) -> Iterator[str]:
    for section, cls in classes(method).items():
        docs = field_docs(cls)
        defaults = {field.name: _default(field) for field in dataclasses.fields(cls)}
        if section == "method":
            docs = field_docs(MethodConfig) | docs
            targets = method_class(method).default_targets
            defaults = {"name": "'tera'", "targets": repr(targets)} | defaults
        for name, default in defaults.items():
            yield _entry(f"config.{section}.{name}", tree[section].get(name), default, docs[name])
    yield _entry("config.export", tree["export"], "()", field_docs(Config)["export"])


def _entry(key: str, value: Any, default: str, doc: str) -> str:
    text = textwrap.fill(doc, 96, initial_indent="    ", subsequent_indent="    ")
    return f"{key} = {value!r} (default: {default})\n{text}"


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        return repr(dataclasses.asdict(field.default_factory()))
    return "none, give a value" if field.default is dataclasses.MISSING else repr(field.default)


def field_docs(cls: type) -> dict[str, str]:
    """What the ``Attributes:`` of a class and of those that it inherits from say of each field."""
    docs: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        text = inspect.cleandoc(one.__dict__.get("__doc__") or "")
        section = re.split(r"\n(?=\w)", text.partition("Attributes:\n")[2])[0]
        for match in re.finditer(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE):
            docs[match[1]] = " ".join(match[2].split())
    return docs
