"""Small multiples: histograms of d, and overlaps between settings as a matrix."""

import statistics
from collections.abc import Sequence
from typing import Any

from ..table import Row, distinct, natural
from . import style

_COLUMNS, _LETTERS = 3, 44
"""Of panels, and of a line of their titles."""


def histograms(rows: Sequence[Row]) -> Any:
    """A panel for each label, a step line for each array of d; panels have own scales."""
    labels, arrays = distinct(rows, "label"), sorted(distinct(rows, "array"), key=natural)
    columns = min(_COLUMNS, len(labels))
    figure, panels = style.grid(-(-len(labels) // columns), columns, arrays, height=2.2)
    handles: dict[str, Any] = {}
    for panel, label in zip(panels.flat, labels, strict=False):
        panel.set_title(style.wrapped(style.brief(label), _LETTERS), fontsize=8)
        panel.set(xlabel="value of d", yscale="log")
        for number, array in enumerate(arrays):
            own = [r for r in rows if (r["label"], r["array"]) == (label, array)]
            if own:
                edges = [own[0]["low"], *(row["high"] for row in own)]
                parts = [row["part"] or float("nan") for row in own]
                look = {"color": style.look(number)["color"], "linestyle": style.line(number)}
                handles[array] = panel.stairs(parts, edges, linewidth=1.3, **look)
    for panel in panels.flat[len(labels) :]:
        panel.set_visible(False)
    for panel in panels[:, 0]:
        panel.set_ylabel("part of the values")
    style.legend(figure, [handles[array] for array in arrays], arrays)
    return figure


def matrix(rows: Sequence[Row]) -> Any:
    """Mean overlap of two settings, over modules, sides and seeds; the darker the less."""
    names = sorted({*distinct(rows, "label"), *distinct(rows, "other")})
    numbers = [f"{number}" for number in range(1, len(names) + 1)]
    named = [f"{style.brief(name)}  {number}" for name, number in zip(names, numbers, strict=True)]
    size, left = max(2.4, 0.42 * len(names)), style.beside(named) + 0.3
    figure, panels = style.grid(1, 1, width=size + 1.4, height=size + 0.5, left=left)
    panel = panels[0, 0]
    table = [[_mean(rows, {one, two}) for two in names] for one in names]
    image = panel.imshow(table, cmap="viridis", vmin=0, vmax=1)
    panel.set_yticks(range(len(names)), named)
    panel.set_xticks(range(len(names)), numbers)
    panel.grid(visible=False)
    for y, line in enumerate(table):
        for x, value in enumerate(line):
            if value == value:  # not NaN
                colour = "white" if value < 0.6 else "black"
                given = {"ha": "center", "va": "center", "fontsize": 7, "color": colour}
                panel.text(x, y, f"{value:.2f}", **given)
    label = "overlap of the first directions"
    figure.colorbar(image, ax=panel, label=label, shrink=0.8, aspect=30)
    return figure


def _mean(rows: Sequence[Row], pair: set[str]) -> float:
    own = [row["mean"] for row in rows if {row["label"], row["other"]} == pair]
    return statistics.fmean(own) if own else float("nan")
