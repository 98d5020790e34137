"""MkDocs calls these while it builds the site: pages of the root, and links out of the docs."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
FROM_ROOT = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the root that are pages of the site."""
_LINK = re.compile(r"\[([^\]]+)\]\(([^):]+?)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the root."""
    for name, page in FROM_ROOT.items():
        content = linked((ROOT / name).read_text(encoding="utf-8"), folder="")
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Mend what GitHub reads otherwise."""
    if page.file.src_uri not in FROM_ROOT.values():
        folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))
        markdown = linked(markdown, folder)
    return unescaped(markdown)


def linked(markdown: str, folder: str) -> str:
    """Links to pages lead to them in the site; of links to other files the text is left.

    Args:
        markdown: of a page.
        folder: where the page lies, from the root.
    """
    here = posixpath.relpath(folder, "docs") if folder else "."

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        page = FROM_ROOT.get(path, path.removeprefix("docs/"))
        if page == path:
            return text
        return f"[{text}]({posixpath.relpath(page, here)}{anchor})"

    return _LINK.sub(link, markdown)


def unescaped(markdown: str) -> str:
    r"""Code in tables without the backslash of ``\|``, which only GitHub asks for."""

    def row(found: re.Match[str]) -> str:
        return re.sub(r"`[^`]+`", lambda code: code[0].replace(r"\|", "|"), found[0])

    return re.sub(r"^\|.*$", row, markdown, flags=re.MULTILINE)
