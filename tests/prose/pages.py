"""The text of Markdown pages and notebooks, a piece for each paragraph, item, heading and cell."""

import json
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from .sentences import Piece

_PARSER = MarkdownIt("commonmark").enable("table")


def pages(root: Path) -> list[Path]:
    """README, CONTRIBUTING, the docs, and what examples say of themselves."""
    examples = sorted((root / "examples").rglob("*.md"))
    docs = sorted((root / "docs").rglob("*.md"))
    return [root / "README.md", root / "CONTRIBUTING.md", *docs, *examples]


def notebooks(root: Path) -> list[Path]:
    """All of them."""
    return sorted((root / "notebooks").glob("*.ipynb"))


def pieces(root: Path) -> Iterator[Piece]:
    """The text of all pages and notebooks under a root."""
    for path in pages(root):
        yield from of_markdown(path.read_text(encoding="utf-8"), str(path.relative_to(root)))
    for path in notebooks(root):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for number, cell in enumerate(cells):
            if cell["cell_type"] == "markdown":
                name = f"{path.relative_to(root)}[cell {number}]"
                yield from of_markdown("".join(cell["source"]), name)


def of_markdown(text: str, file: str) -> Iterator[Piece]:
    """The pieces of a page; blocks of code and of HTML are left out."""
    for token in _PARSER.parse(text):
        if token.type == "inline" and token.map is not None:
            yield Piece(file, token.map[0] + 1, "".join(map(_written, token.children or [])))


def code_spans(text: str) -> Iterator[tuple[int, str]]:
    """Lines, from 1, and contents of the spans and blocks of code of a page."""
    for token in _PARSER.parse(text):
        line = token.map[0] + 1 if token.map is not None else 0
        if token.type in ("fence", "code_block"):
            # The first line of a fence is its marker.
            start = line + (token.type == "fence")
            yield from enumerate(token.content.splitlines(), start)
        for child in token.children or []:
            line += child.type in ("softbreak", "hardbreak")
            if child.type == "code_inline":
                yield line, child.content


def _written(token: Token) -> str:
    if token.type == "code_inline":
        return f"`{token.content}`"
    return "\n" if token.type in ("softbreak", "hardbreak") else token.content
