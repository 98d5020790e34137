"""Run the notebooks and write their outputs into them.

    python -m notebooks.runner [notebooks/NAME.ipynb ...]

Each runs from its first cell to its last in a fresh kernel. What is written holds a digest of the
sources that ran, so that ``make test`` finds outputs of other sources. Two tags of cells have a
meaning: a cell tagged ``parameters`` holds the numbers of steps, and one tagged ``picture`` draws
one.
"""

import argparse
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tera_jax import atomic

FOLDER = Path(__file__).parent
DIGEST = "source_digest"
LARGEST = 400_000
"""Bytes of a notebook with its outputs."""

_TIMEOUT = 540
"""Seconds for a cell."""
_STEPS = re.compile(r"^(\w*steps) = \d+$", re.MULTILINE)
_MACHINE = re.compile(r"(?<![\w.:/<~])/[\w.+-]+/[\w.+-]+|\b[A-Z]:\\\w|site-packages")


def paths() -> list[Path]:
    """All notebooks, in the order of their names."""
    return sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> Any:
    """A notebook of version 4."""
    return nbformat.read(path, as_version=4)


def digest(notebook: Any) -> str:
    """A SHA-256 of the kinds, tags and sources of all cells, in order."""
    cells = [[cell.cell_type, _tags(cell), cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def shorten(notebook: Any, steps: int) -> None:
    """Set every ``steps = N`` and ``..._steps = N`` of the cells tagged ``parameters``, in place.

    Raises:
        ValueError: when there is none.
    """
    changed = 0
    for cell in notebook.cells:
        if "parameters" in _tags(cell):
            cell.source, count = _STEPS.subn(rf"\1 = {steps}", cell.source)
            changed += count
    if not changed:
        raise ValueError("no cell tagged 'parameters' has a line 'steps = N'; add one")


def run(notebook: Any, folder: Path = FOLDER, environment: Mapping[str, str] = os.environ) -> None:
    """Run all cells in a fresh kernel, in place.

    Args:
        notebook: whose outputs are replaced.
        folder: the kernel's working directory.
        environment: of the kernel; the checkout comes first on its ``PYTHONPATH``, and no progress
            bars are shown.

    Raises:
        CellExecutionError: when a cell raises.
    """
    first = [str(FOLDER.parent), *filter(None, [environment.get("PYTHONPATH")])]
    kernel = {**environment, "PYTHONPATH": os.pathsep.join(first), "TQDM_DISABLE": "1"}
    NotebookClient(
        notebook,
        timeout=_TIMEOUT,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    ).execute(env=kernel)


def tidy(notebook: Any) -> None:
    """Leave of metadata what does not change from run to run, and add the digest, in place."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            DIGEST: digest(notebook),
        }
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.from_dict({"tags": _tags(cell)} if _tags(cell) else {})


def faults(notebook: Any) -> list[str]:
    """What is wrong with a notebook's outputs; nothing for one as :func:`main` writes it."""
    found = []
    if notebook.metadata.get(DIGEST) != digest(notebook):
        found.append("the outputs are of other sources")
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("the code cells did not run once each, in order")
    for number, cell in enumerate(cells, 1):
        if any(output.output_type == "error" for output in cell.outputs):
            found.append(f"code cell {number} ends in an error")
        if any(output.get("name") == "stderr" for output in cell.outputs):
            found.append(f"code cell {number} wrote to the standard error")
        if "picture" in _tags(cell) and not any(map(_is_picture, cell.outputs)):
            found.append(f"code cell {number} draws no picture")
        for text in _texts(cell):
            found += [
                f"code cell {number} prints the path {match[0]!r} of a machine"
                for match in _MACHINE.finditer(text)
            ]
    if not any("picture" in _tags(cell) for cell in cells):
        found.append("no cell is tagged 'picture'")
    if len(nbformat.writes(notebook)) > LARGEST:
        found.append(f"it is larger than {LARGEST:,} bytes")
    return found


def _tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def _is_picture(output: Any) -> bool:
    return "image/png" in output.get("data", {})


def _texts(cell: Any) -> Iterator[str]:
    """The texts of a cell's outputs."""
    for output in cell.outputs:
        yield output.get("text", "")
        yield "\n".join(output.get("traceback", []))
        data = output.get("data", {})
        yield from (text for kind, text in data.items() if kind.startswith("text/"))


def main(argv: Sequence[str] | None = None) -> None:
    """Run notebooks, and write those without a fault."""
    parser = argparse.ArgumentParser(prog="python -m notebooks.runner")
    parser.add_argument("notebooks", nargs="*", type=Path, help="by default all")
    for path in parser.parse_args(argv).notebooks or paths():
        notebook = read(path)
        run(notebook)
        tidy(notebook)
        if wrong := faults(notebook):
            raise SystemExit(f"{path.name} is left as it was: " + "; ".join(wrong))
        atomic.write_text(path, nbformat.writes(notebook) + "\n")
        print(f"{path.name}: {len(notebook.cells)} cells, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
