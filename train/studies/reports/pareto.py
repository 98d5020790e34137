"""The methods that no other beats in both count and loss: a table, a file and a picture."""

import csv
import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ... import pictures
from ..variants import BASE
from .summaries import Summary

CSV = "pareto.csv"
_COLUMNS = ("task", "variant", "trained", "test", "deviation", "seeds", "on_front")
_LONGEST = 60
"""Characters of a name in the picture, in which the name of a long scheme has no room."""


def front(found: Sequence[Summary]) -> list[Summary]:
    """Those of one task that none has both as few parameters and as low a loss as, but for ties.

    By the count of trainable parameters. The base, which trains none, is not among them.
    """
    points = [each for each in found if each.variant != BASE and math.isfinite(each.test.mean)]

    def dominates(a: Summary, b: Summary) -> bool:
        no_worse = a.trained <= b.trained and a.test.mean <= b.test.mean
        return no_worse and (a.trained, a.test.mean) != (b.trained, b.test.mean)

    kept = [one for one in points if not any(dominates(other, one) for other in points)]
    return sorted(kept, key=lambda each: (each.trained, each.test.mean))


def by_task(found: Sequence[Summary]) -> dict[str, list[Summary]]:
    """The summaries of each task, in their order."""
    groups: dict[str, list[Summary]] = {}
    for each in found:
        groups.setdefault(each.task, []).append(each)
    return groups


def comma_separated(found: Sequence[Summary]) -> str:
    """A line for each variant and task, unrounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for task, group in by_task(found).items():
        best = {each.variant for each in front(group)}
        for each in group:
            own = (each.trained, each.test.mean, each.test.deviation, len(each.tests))
            writer.writerow([task, each.variant, *own, each.variant in best])
    return text.getvalue()


def draw(found: Sequence[Summary], output: Path) -> list[Path]:
    """Write the picture into a directory, as PNG and SVG: a panel for each task.

    Raises:
        ImportError: without matplotlib.
    """
    pictures.require()
    import matplotlib
    from matplotlib.figure import Figure

    groups = by_task(found)
    with matplotlib.rc_context({"svg.hashsalt": "pareto"}):  # the same bytes each time
        figure = Figure(figsize=(6.4, 4.4 * max(1, len(groups))), layout="constrained")
        panels = figure.subplots(max(1, len(groups)), squeeze=False)[:, 0]
        for panel, (task, group) in zip(panels, groups.items(), strict=False):
            _panel(panel, task, group)
        return pictures.save(figure, output, "pareto")


def _panel(panel: Any, task: str, group: Sequence[Summary]) -> None:
    panel.set(title=task, xlabel="trainable parameters", ylabel="test loss (nats/token)")
    panel.set_xscale("log")
    points = [each for each in group if each.variant != BASE and math.isfinite(each.test.mean)]
    for place, each in enumerate(sorted(points, key=lambda each: each.test.mean)):
        deviation = each.test.deviation or 0.0
        panel.errorbar(each.trained, each.test.mean, deviation, fmt="o", color="C0", capsize=3)
        right = place % 2 == 0  # names of neighbours stand on both sides
        panel.annotate(
            textwrap.shorten(each.variant.replace(",", ", "), _LONGEST, placeholder=" ..."),
            (each.trained, each.test.mean),
            xytext=(5 if right else -5, 0),
            textcoords="offset points",
            horizontalalignment="left" if right else "right",
            verticalalignment="center",
            fontsize=7,
        )
    best = front(group)
    panel.plot(
        [each.trained for each in best],
        [each.test.mean for each in best],
        "-",
        color="C1",
        label="not dominated",
    )
    if points:
        panel.legend()
