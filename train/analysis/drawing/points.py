"""Losses against counts: numbered points, and a list of what the numbers stand for."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..table import Row, distinct
from . import style

_COUNT, _LOSS = "trainable parameters", "held-out NLL (nats/token)"
_TICKS = ((8.0, (1, 2, 3, 5)), (200.0, (1, 3)), (5e3, (1,)))
"""Above a ratio of the largest count to the least, at which multiples of powers ticks stand."""
_NEAR, _RADII = 9.0, (10.0, 17.0, 25.0, 34.0)
"""Points of distance between numbers, and from a point to its number."""


def by_count(rows: Sequence[Row]) -> Any:
    """Loss against count; the colour is the rank as a part of the full one, white if unknown."""
    names = [str(row["label"]) for row in rows]
    figure, panels = style.grid(1, 1, names, width=6.0, height=3.6)
    panel = panels[0, 0]
    _axes(panel, rows, rows)
    _deviations(panel, rows)
    look: Any = {"edgecolors": "black", "linewidths": 0.6, "s": 42, "zorder": 3}
    known = [row for row in rows if row["rank_percent"] is not None]
    unknown = [row for row in rows if row["rank_percent"] is None]
    ranks = [row["rank_percent"] for row in known]
    scale: Any = {"vmin": 0, "vmax": 100, "cmap": "viridis"}
    marks = panel.scatter(*_counts_and_losses(known), c=ranks, **scale, **look)
    panel.scatter(*_counts_and_losses(unknown), c="white", **look)
    figure.colorbar(marks, ax=panel, label="rank (% of full, float32's tolerance)")
    _list(figure, names)
    _numbers(figure, [(panel, row, number) for number, row in enumerate(rows, 1)])
    return figure


def _counts_and_losses(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    return [row["trained"] for row in rows], [row["nll"] for row in rows]


def by_scheme(rows: Sequence[Row]) -> Any:
    """Loss against count; a panel for schemes that split one side, and one for both sides."""

    def name(row: Row) -> str:
        return f"{row['scheme']} ({row['fixed']})" if row["fixed"] else str(row["scheme"])

    splits = sorted(distinct(rows, "split"), reverse=True)
    names = [name(row) for row in rows]
    figure, panels = style.grid(1, len(splits), names, width=4.0, height=3.4)
    given: list[tuple[Any, Row, int]] = []
    for panel, split in zip(panels[0], splits, strict=True):
        own = [(number, row) for number, row in enumerate(rows, 1) if row["split"] == split]
        _axes(panel, [row for _, row in own], rows)
        panel.set_title(f"{split} split")
        _deviations(panel, [row for _, row in own])
        for index, fixed in enumerate(distinct(rows, "fixed")):
            points = [(row["trained"], row["nll"]) for _, row in own if row["fixed"] == fixed]
            if points:
                line = {**style.look(index), "linewidth": 0.6, "markersize": 6}
                panel.plot(*zip(*sorted(points), strict=True), **line)
        given += [(panel, row, number) for number, row in own]
    for panel in panels[0, 1:]:
        panel.set_ylabel("")
    _list(figure, names)
    _numbers(figure, given)
    return figure


def _axes(panel: Any, own: Sequence[Row], rows: Sequence[Row]) -> None:
    """Limits from the panel's own counts, and from the losses of all panels."""
    counts = [row["trained"] for row in own]
    around = (max(counts) / min(counts)) ** 0.12 if max(counts) > min(counts) else 1.5
    spreads = [(row["nll"], row["deviation"] or 0.0) for row in rows]
    low, high = min(loss - by for loss, by in spreads), max(loss + by for loss, by in spreads)
    edge = 0.12 * (high - low) or 0.1
    panel.set(xlabel=_COUNT, ylabel=_LOSS, xscale="log")
    panel.set_xlim(min(counts) / around, max(counts) * around)
    panel.set_ylim(low - edge, high + edge)
    _ticks(panel)


def _ticks(panel: Any) -> None:
    """Few and short ones, as 20k, whether the counts are near or far apart."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = panel.get_xlim()
    far = [subs for ratio, subs in _TICKS if high > ratio * low]
    panel.xaxis.set_major_locator(LogLocator(subs=far[-1]) if far else MaxNLocator(4))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))


def _deviations(panel: Any, rows: Sequence[Row]) -> None:
    for row in rows:
        if row["deviation"]:
            given = row["trained"], row["nll"], row["deviation"]
            panel.errorbar(*given, color=style.GREY, capsize=2, linewidth=0.8, zorder=2)


def _list(figure: Any, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"linestyle": "", "color": "black", "markeredgewidth": 0}
    handles = [
        Line2D([], [], marker=f"${number}$", markersize=3 + 2 * len(str(number)), **look)
        for number in range(1, len(names) + 1)
    ]
    style.legend(figure, handles, names)


def _numbers(figure: Any, given: Sequence[tuple[Any, Row, int]]) -> None:
    """A number beside each point, where no other point or number is."""
    figure.draw_without_rendering()  # so that the panels have their sizes
    in_points = 72 / figure.dpi
    marks = []
    for panel, row, _ in given:
        x, y = panel.transData.transform((row["trained"], row["nll"]))
        marks.append((x * in_points, y * in_points))
    taken: list[tuple[float, float]] = []
    for (panel, row, number), mark in zip(given, marks, strict=True):
        box = panel.get_window_extent()
        edges = [edge * in_points for edge in (box.x0, box.y0, box.x1, box.y1)]
        others = [other for other in marks if other != mark]
        shift = _free(mark, [*others, *taken], edges)
        taken.append((mark[0] + shift[0], mark[1] + shift[1]))
        far = math.hypot(*shift) > _RADII[0] + 1
        note = panel.annotate(
            str(number),
            (row["trained"], row["nll"]),
            xytext=shift,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7,
            zorder=4,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": style.GREY} if far else None,
        )
        note.set_in_layout(False)


def _free(
    mark: tuple[float, float], others: Sequence[tuple[float, float]], edges: Sequence[float]
) -> tuple[float, float]:
    def apart(shift: tuple[float, float]) -> float:
        x, y = mark[0] + shift[0], mark[1] + shift[1]
        if not (edges[0] + 4 < x < edges[2] - 4 and edges[1] + 4 < y < edges[3] - 4):
            return 0.0
        return min((math.dist((x, y), other) for other in others), default=math.inf)

    tried = [_around(radius, angle) for radius in _RADII for angle in range(30, 390, 30)]
    first = next((shift for shift in tried if apart(shift) >= _NEAR), None)
    return first or max(tried, key=apart)


def _around(radius: float, degrees: int) -> tuple[float, float]:
    angle = math.radians(degrees)
    return radius * math.cos(angle), radius * math.sin(angle)


Draw = Callable[[Sequence[Row]], Any]
"""A figure of the rows of a table."""
