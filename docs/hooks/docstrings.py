"""Griffe calls this for the objects of the API reference: their docstrings and shapes."""

import ast
import re
from typing import Any

import griffe

_ROLE = re.compile(r":\w+:`~?([^`]+)`")
_TABLE = re.compile(r"^(=+ =+\n.*?\n=+ =+)$", re.MULTILINE | re.DOTALL)
_SHAPED = re.compile(r"\b(Bool|Float|Int|Integer|Shaped|UInt8|Num)\[")


class Docstrings(griffe.Extension):
    """What is reStructuredText becomes Markdown, and the shapes of jaxtyping stay as written."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Roles become code, and tables blocks of text."""
        if obj.docstring is not None:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = _TABLE.sub(r"```text\n\1\n```", text)

    def on_function_instance(self, *, node: Any, func: griffe.Function, **_: Any) -> None:
        """Griffe would read the shape ``"B L"`` as the name of a type."""
        if not isinstance(node, ast.FunctionDef):
            return
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in arguments:
            if (written := _written(argument.annotation)) is not None:
                func.parameters[argument.arg].annotation = written
        if (written := _written(node.returns)) is not None:
            func.returns = written


def _written(annotation: ast.expr | None) -> str | None:
    """An annotation as it stands in the file, if a shape is in it."""
    text = "" if annotation is None else ast.unparse(annotation)
    return text.replace("'", '"') if _SHAPED.search(text) else None
