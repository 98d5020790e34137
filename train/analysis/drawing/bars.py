"""Horizontal bars and dots: losses of settings, forgetting, overlaps."""

import statistics
from collections.abc import Sequence
from typing import Any

from ..table import Row, distinct
from . import style

_OPEN = {"in": None, "out": "white"}
"""Face of the marks of a side; None is the colour of the series."""
_LETTERS = 64
"""Of a line of a title."""


def by_value(rows: Sequence[Row]) -> Any:
    """How far losses lie above the lowest mean of the panel; dots are seeds."""
    groups = distinct(rows, "fixed")
    values = {
        fixed: distinct([r for r in rows if r["fixed"] == fixed], "value") for fixed in groups
    }
    most = max(map(len, values.values()))
    left = style.beside([style.brief(value) for own in values.values() for value in own])
    titles = [style.wrapped(style.brief(fixed), _LETTERS) for fixed in groups]
    height = 0.7 + 0.36 * most + 0.15 * max(title.count("\n") for title in titles)
    figure, panels = style.grid(len(groups), 1, width=5.4, height=height, left=left)
    for panel, fixed, title in zip(panels[:, 0], groups, titles, strict=True):
        own = [row for row in rows if row["fixed"] == fixed]
        panel.set_title(title, loc="left")
        _bars(panel, values[fixed], own)
    panels[-1, 0].set_xlabel("held-out NLL above the lowest mean (nats/token)")
    return figure


def _bars(panel: Any, values: Sequence[str], rows: Sequence[Row]) -> None:
    from matplotlib.ticker import MaxNLocator

    losses = {value: [row["nll"] for row in rows if row["value"] == value] for value in values}
    means = {value: statistics.fmean(of) for value, of in losses.items()}
    least = min(means.values())
    for place, value in enumerate(values):
        above = [loss - least for loss in losses[value]]
        look = style.look(place)
        panel.barh(place, means[value] - least, 0.6, color=look["color"], alpha=0.6)
        panel.plot(above, [place] * len(above), "o", color="black", markersize=3, zorder=3)
        spread = f" ± {statistics.stdev(above):.4f}" if len(above) > 1 else ""
        panel.annotate(
            f"{means[value]:.4f}{spread}",
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
        )
    _names(panel, values)
    panel.axvline(0, color=style.GREY, linewidth=0.8)
    panel.margins(x=0.08)
    panel.xaxis.set_major_locator(MaxNLocator(5))


def elsewhere(rows: Sequence[Row]) -> Any:
    """By how much the NLL of other files has risen; a panel a file, dots are runs."""
    names, labels = distinct(rows, "evaluation"), distinct(rows, "label")
    height, left = 0.7 + 0.3 * len(labels), style.beside([*map(style.brief, labels)])
    figure, panels = style.grid(len(names), 1, width=4.6, height=height, left=left)
    for panel, name in zip(panels[:, 0], names, strict=True):
        panel.set_title(name)
        for place, label in enumerate(labels):
            own = [r for r in rows if (r["evaluation"], r["label"]) == (name, label)]
            changes = [row["change"] for row in own]
            if changes:
                colour = style.look(place)["color"]
                panel.barh(place, statistics.fmean(changes), 0.6, color=colour, alpha=0.6)
                panel.plot(changes, [place] * len(changes), "o", color="black", markersize=3)
        _names(panel, labels)
        panel.axvline(0, color=style.GREY, linewidth=0.8)
    panels[-1, 0].set_xlabel("NLL after the training - before it (nats/token)")
    return figure


def overlaps(rows: Sequence[Row]) -> Any:
    """Mean and extremes over pairs; full marks are inputs, open ones outputs, ticks are chance."""
    from matplotlib.lines import Line2D

    kinds, modules = distinct(rows, "kind"), sorted(distinct(rows, "module"))
    labels = distinct(rows, "label")
    height = 0.8 + 0.24 * len(labels) * len(modules)
    marks = ["inputs", "outputs", "at random"]
    left, names = style.beside([*map(style.brief, labels)]), [*modules, *marks]
    figure, panels = style.grid(1, len(kinds), names, width=3.2, height=height, left=left)
    for panel, kind in zip(panels[0], kinds, strict=True):
        panel.set_title("layers of a run" if kind == "layers" else "seeds, the same layer")
        panel.set(xlabel="overlap of the first directions")
        _names(panel, labels)
        own = [row for row in rows if row["kind"] == kind]
        for place, label in enumerate(labels):
            _dots(panel, [row for row in own if row["label"] == label], place, modules)
        panel.set_xlim(left=0)
    for panel in panels[0, 1:]:
        panel.set_yticklabels([])
    given = [Line2D([], [], linestyle="-", color=style.COLOURS[i]) for i in range(len(modules))]
    plain: dict[str, Any] = {"linestyle": "", "color": "black", "marker": "o"}
    given += [Line2D([], [], **plain), Line2D([], [], markerfacecolor="white", **plain)]
    given += [Line2D([], [], linestyle="", marker="|", color=style.GREY, markersize=9)]
    style.legend(figure, given, names)
    return figure


def _dots(panel: Any, rows: Sequence[Row], place: int, modules: Sequence[str]) -> None:
    lanes = [(module, side) for module in modules for side in _OPEN]
    for lane, (module, side) in enumerate(lanes):
        own = [row for row in rows if (row["module"], row["side"]) == (module, side)]
        if not own:
            continue
        y = place + 0.8 * ((lane + 0.5) / len(lanes) - 0.5)
        colour = style.COLOURS[modules.index(module) % len(style.COLOURS)]
        low, high = min(row["lowest"] for row in own), max(row["highest"] for row in own)
        panel.plot([low, high], [y, y], "-", color=colour, linewidth=1)
        chance = statistics.fmean(row["random"] for row in own)
        panel.plot(chance, y, "|", color=style.GREY, markersize=7)
        mean = statistics.fmean(row["mean"] for row in own)
        face = _OPEN[side] or colour
        panel.plot(mean, y, "o", color=colour, markerfacecolor=face, zorder=3)


def _names(panel: Any, labels: Sequence[str]) -> None:
    panel.set_yticks(range(len(labels)), [*map(style.brief, labels)])
    panel.set_ylim(len(labels) - 0.5, -0.5)
    panel.grid(visible=False, axis="y")
