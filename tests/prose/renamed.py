"""Identifiers that were renamed, which neither code nor the code spans of docs use any more."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from train.config.names import RENAMED

from . import code, pages

IDENTIFIERS = {
    "Decoding": "GenerationConfig",
    "Found": "a noun",
    "Lowered": "a noun",
    "Served": "InferenceModel",
    "Stream": "DataIterator",
    "Timed": "a noun",
    "accumulate": "grad_accum_steps",
    "claim": "init_workdir",
    "index_BT": "target positions",
    "loss_on": "train_on_prompt",
    "on_first": "on_main_process",
    "packed_tokens": "packed_length",
    "sandwich": "two_sided_matmul",
    "say": "log",
    "seam": "interceptor",
    "sites": "target layers",
}
"""Names of variables, fields, functions, arguments and classes."""
LIBRARY = {
    "stages": "Kronecker factor sizes",
    "turns": "contraction_order",
}
"""As :data:`IDENTIFIERS`, in ``tera_jax`` alone: a conversation has turns."""
WRITTEN = {
    **RENAMED,
    'core="fast"': "structure",
    "config.core": "config.method.structure",
    "config.wide": "config.method.structure",
    "runs.start": "init_train_state",
    "runs.trained": "restore_best",
    'wide="fast"': "structure",
}
"""As they stand in flags, calls and code spans; quotation marks may be single or absent."""
NAMES = {**IDENTIFIERS, **LIBRARY, **WRITTEN}
TABLES_OF_OLD_NAMES = ("train/config/names.py", "tera_jax/io/adapter_description.py")
"""What reads old files, or tells a user the new name."""

_SPANS = {
    **{name: re.compile(rf"(?<![\w.-]){name}(?![\w-])") for name in IDENTIFIERS},
    **{
        name: re.compile(r"(?<!\w)" + re.escape(name).replace('"', "[\"']?") + r"(?!\w)")
        for name in WRITTEN
    },
}


@dataclass(frozen=True)
class Use:
    """A place where an old name stands.

    Attributes:
        file: relative to the root.
        line: from 1.
        name: a key of :data:`NAMES`.
        text: the identifier, or what stands around the name.
    """

    file: str
    line: int
    name: str
    text: str


def found(root: Path) -> list[Use]:
    """Every use of an old name in the code and the pages under a root."""
    uses: list[Use] = []
    for path in code.files(root):
        file = str(path.relative_to(root))
        if file not in TABLES_OF_OLD_NAMES:
            uses += in_python(path.read_text(encoding="utf-8"), file)
    for path in pages.pages(root):
        uses += in_markdown(path.read_text(encoding="utf-8"), str(path.relative_to(root)))
    return uses


def in_python(text: str, file: str) -> Iterator[Use]:
    """Old identifiers, and old names in the texts of a Python file."""
    old = {**IDENTIFIERS, **(LIBRARY if file.startswith("tera_jax/") else {})}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _written(node.value, file, node.lineno, WRITTEN)
        for field in ("id", "attr", "name", "arg"):
            name = getattr(node, field, None)
            if name in old:
                yield Use(file, getattr(node, "lineno", 1), name, name)


def in_markdown(text: str, file: str) -> Iterator[Use]:
    """Old names in the code spans and blocks of a page."""
    for line, span in pages.code_spans(text):
        yield from _written(span, file, line, _SPANS)


def _written(text: str, file: str, line: int, names: dict[str, object]) -> Iterator[Use]:
    for name in names:
        if _SPANS[name].search(text):
            yield Use(file, line, name, text.strip()[:60])
