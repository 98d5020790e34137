"""What all figures share: colours, marks, sizes and legends.

The colours are those of Okabe and Ito, which colour-blind readers tell apart, without the yellow.
Every series also has a mark of its own.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
LINES = ("-", "--", "-.", ":")
GREY = "#777777"
_SETTINGS: Any = {
    "svg.hashsalt": "tera-jax",  # the same bytes each time
    "font.family": "DejaVu Sans",  # which comes with matplotlib
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.fontsize": 8,
    "legend.frameon": False,
}
_REPEATED = re.compile(r"(?<![\dx])(\d+)(?:x\1){2,}(?![\dx])")
_LETTER, _HANDLE, _LINE = 0.068, 0.5, 0.19
"""Inches of a letter of a legend, of the mark before a text, and of a line."""


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """Within, figures are made and saved in the common style."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        yield


def look(number: int) -> dict[str, Any]:
    """Colour, mark and line of a series, by its number from 0."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKS[number % len(MARKS)],
        "linestyle": LINES[number // len(COLOURS) % len(LINES)],
    }


def line(number: int) -> str:
    """The line of a series without marks, by its number from 0."""
    return LINES[number % len(LINES)]


def brief(name: str) -> str:
    """A label or a scheme in fewer letters: ``2^6`` for six modes of 2, ``q+v`` for targets."""
    powers = _REPEATED.sub(lambda found: f"{found[1]}^{found[0].count('x') + 1}", name)
    return powers.replace("tensorizations=", "").replace("_proj", "")


def wrapped(text: str, width: int) -> str:
    """On several lines, broken behind commas; a part without commas may be longer.

    Args:
        text: a label or a title.
        width: letters of a line.
    """
    lines = [""]
    for part in text.replace(",", ",\0").split("\0"):
        if lines[-1].strip() and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(each.strip() for each in lines)


def beside(names: Sequence[str]) -> float:
    """Inches that names take at the left of a panel."""
    return _LETTER * max(map(len, names))


def grid(
    rows: int,
    columns: int,
    names: Sequence[str] = (),
    width: float = 3.6,
    height: float = 2.5,
    left: float = 0.0,
) -> tuple[Any, Any]:
    """A figure and its panels, (rows, columns), with room for a legend of these names below.

    Args:
        rows: of panels.
        columns: of panels.
        names: in the legend.
        width: inches of a panel.
        height: likewise.
        left: inches of names at the left of the first column.
    """
    from matplotlib.figure import Figure

    longest = max((len(brief(name)) for name in names), default=0)
    whole = max(5.4, width * columns + 0.4 + left, _LETTER * longest + 2 * _HANDLE)
    below = _LINE * -(-len(names) // _columns(names, whole)) if names else 0.0
    figure = Figure(figsize=(whole, height * rows + 0.3 + below), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def legend(figure: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Below all panels, in as many columns as the brief texts leave room for."""
    count = _columns(names, float(figure.get_figwidth()))
    figure.legend(handles, [*map(brief, names)], loc="outside lower center", ncols=count)


def _columns(names: Sequence[str], width: float) -> int:
    longest = max((len(brief(name)) for name in names), default=1)
    return max(1, min(len(names), int(width / (_LETTER * longest + _HANDLE))))
