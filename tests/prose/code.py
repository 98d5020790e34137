"""The text in Python files: left_out, and the literals of messages, help and warnings."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from .sentences import Piece

ROOMS = ("tera_jax", "train", "benchmarks", "configs", "examples")
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Example|Examples|Note|Warns):")
_NAMED = ("Args", "Attributes", "Raises", "Warns")
"""Sections with an entry for each name."""
_ITEM = re.compile(r"[-*] |\d+\. ")


def files(root: Path) -> list[Path]:
    """The Python files of the packages, the recipes and the examples."""
    return sorted(path for room in ROOMS for path in (root / room).rglob("*.py"))


def pieces(root: Path) -> Iterator[Piece]:
    """The left_out and literals of all files under a root."""
    for path in files(root):
        yield from of_python(path.read_text(encoding="utf-8"), str(path.relative_to(root)))


def of_python(text: str, file: str) -> Iterator[Piece]:
    """Pieces of each docstring, and a piece for each line of each other literal."""
    tree = ast.parse(text)
    left_out: set[ast.AST] = set()
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            # Beside left_out, texts that stand after a variable or a field.
            if isinstance(child, ast.Expr) and _is_text(child.value):
                left_out.add(child.value)
                yield from of_docstring(child.value.value, file, child.value.lineno)
    left_out |= set(_lists_of_words(tree))
    yield from _literals(tree, left_out, file)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _lists_of_words(tree: ast.Module) -> Iterator[ast.AST]:
    """Values of the module's variables that the module splits into words."""
    split = {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "split"
        and isinstance(node.value, ast.Name)
    }
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id in split:
            yield node.value


def _literals(node: ast.AST, left_out: set[ast.AST], file: str) -> Iterator[Piece]:
    for child in ast.iter_child_nodes(node):
        if child in left_out:
            continue
        text = _text(child)
        if text is None:
            yield from _literals(child, left_out, file)
        else:
            # A literal's lines in the file are not those that it prints.
            yield from (Piece(file, child.lineno, line) for line in text.split("\n"))


def _text(node: ast.AST) -> str | None:
    """What a literal, or a sum of some, says; a word for each value that is put in."""
    if _is_text(node):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) or "value" for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left), _text(node.right)
        return None if left is None and right is None else (left or "value") + (right or "value")
    return None


def of_docstring(text: str, file: str, line: int) -> Iterator[Piece]:
    """The paragraphs, items and entries of a docstring in Google's style; examples are left out.

    Args:
        text: as it stands in the file.
        file: of the piece.
        line: where the docstring begins, from 1.
    """
    section, entry_indent = "", 0
    held: list[str] = []
    start = line
    hanging = 0  # how far the lines after an item's first are indented
    is_row = False  # of a table

    def flush() -> Iterator[Piece]:
        nonlocal held
        if held:
            yield Piece(file, start, "\n".join(held))
        held = []

    for number, full in enumerate(inspect.cleandoc(text).split("\n"), line):
        body = full.strip()
        indent = len(full) - len(full.lstrip())
        if not body:
            yield from flush()
            hanging, is_row = 0, False
            continue
        is_row = is_row or body.startswith("===")
        if indent == 0 and (found := _SECTION.fullmatch(body)):
            yield from flush()
            section, entry_indent = found[1], 0
            continue
        if indent == 0:
            section = ""
        elif section:
            entry_indent = entry_indent or indent
        if section.startswith("Example"):
            continue
        if not section and indent and not (held and indent == hanging):
            yield from flush()  # a command or a formula
            continue
        is_entry = section in _NAMED and indent == entry_indent
        item = _ITEM.match(body)
        if is_entry or item or is_row:
            yield from flush()
        hanging = indent + item.end() if item else hanging
        start = start if held else number
        held.append(re.sub(r"^[\w*., ]+: ", "", body) if is_entry else body)
    yield from flush()
