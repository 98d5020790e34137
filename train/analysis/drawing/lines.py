"""Lines in panels: a column of panels for each module, a row for each number."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..table import Row, distinct
from . import style


class Axis(NamedTuple):
    """A column of a table on an axis.

    Attributes:
        column: its name.
        text: beside the axis, with the unit.
        scale: ``linear`` or ``log``.
    """

    column: str
    text: str
    scale: str = "linear"


_RANKS = (
    Axis("rank_float32", "rank (float32's tolerance)"),
    Axis("entropy_rank", "entropy rank"),
    Axis("stable_rank", "stable rank"),
)
_LAYER = Axis("layer", "layer")


def ranks(rows: Sequence[Row]) -> Any:
    """Rank, entropy rank and stable rank by layer; the full rank is a grey line."""
    return _from_zero(_panels(rows, _LAYER, _RANKS, full="full_rank"))


def ranks_by_scheme(rows: Sequence[Row]) -> Any:
    """As :func:`ranks`, a line a scheme."""

    def series(row: Row) -> str:
        return f"{row['scheme']} ({row['fixed']})" if row["fixed"] else str(row["scheme"])

    return _from_zero(_panels(rows, _LAYER, _RANKS, series, "full_rank"))


def _from_zero(figure: Any) -> Any:
    for panel in figure.axes:
        panel.set_ylim(0, 1.06 * max(max(line.get_ydata()) for line in panel.lines) or 1)
    return figure


def drift(rows: Sequence[Row]) -> Any:
    """The size of updates by layer."""
    return _alike(_panels(rows, _LAYER, [Axis("drift", "drift ‖ΔW‖ / ‖W‖", "log")]))


def spectra(rows: Sequence[Row]) -> Any:
    """Singular values by their place; what is below float64's rounding is cut off."""
    place = Axis("place", "place of the singular value", "log")
    figure = _panels(rows, place, [Axis("mean", "singular value / largest", "log")])
    return _alike(figure, 1e-8)


def intruders(rows: Sequence[Row]) -> Any:
    """Intruder dimensions by the bound of likeness."""
    epsilon = Axis("epsilon", "ε, below which a direction is an intruder")
    return _alike(_panels(rows, epsilon, [Axis("intruders", "intruders of the first directions")]))


def _alike(figure: Any, least: float = float("-inf")) -> Any:
    """One scale in all panels, from ``least`` on."""
    limits = [panel.get_ylim() for panel in figure.axes]
    for panel in figure.axes:
        panel.set_ylim(max(least, min(low for low, _ in limits)), max(high for _, high in limits))
    return figure


def _label(row: Row) -> str:
    return str(row["label"])


def _panels(
    rows: Sequence[Row],
    x: Axis,
    ys: Sequence[Axis],
    series: Callable[[Row], str] = _label,
    full: str = "",
) -> Any:
    modules, names = distinct(rows, "module"), list(dict.fromkeys(map(series, rows)))
    figure, panels = style.grid(len(ys), len(modules), names)
    handles: dict[str, Any] = {}
    for line, y in enumerate(ys):
        for column, module in enumerate(modules):
            panel, own = panels[line, column], [row for row in rows if row["module"] == module]
            _scales(panel, x, y, own)
            panel.set_title(module if line == 0 else "")
            if full and line == 0:
                panel.axhline(own[0][full], color=style.GREY, linewidth=0.8)
            for number, name in enumerate(names):
                points = [(row[x.column], row[y.column]) for row in own if series(row) == name]
                if points:
                    handles[name] = _line(panel, points, number, len(names))
            panel.set_xlabel(x.text if line == len(ys) - 1 else "")
            panel.set_ylabel(y.text if column == 0 else "")
    style.legend(figure, [handles[name] for name in names], names)
    return figure


def _line(panel: Any, points: Sequence[tuple[float, float]], number: int, count: int) -> Any:
    """Marks of the series stand at other points, so that equal lines can be told apart."""
    every = max(1, min(count, len(points) // 3))
    xs, ys = zip(*points, strict=True)
    (line,) = panel.plot(xs, ys, markevery=(number % every, every), **style.look(number))
    return line


def _scales(panel: Any, x: Axis, y: Axis, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_xscale(x.scale)
    if y.scale == "log" and all(row[y.column] > 0 for row in rows):
        panel.set_yscale("log")
    if x.column == "layer":
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
