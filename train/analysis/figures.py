"""The figures: what each is made of, how it is drawn, and what it says."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import pictures
from . import loss_rows, overlap_rows, rank_rows, table
from .analysed import Analysed
from .drawing import bars, lines, points, style, tiles
from .table import Row


class Figure(NamedTuple):
    """A kind of figure, which there is for each task.

    Attributes:
        name: of its files, before the task.
        title: in a few words.
        caption: what it shows.
        rows: of the runs of a task; a text instead says what they lack.
        draw: from these rows as they are read back from the table.
    """

    name: str
    title: str
    caption: str
    rows: Callable[[Sequence[Analysed]], list[Row] | str]
    draw: Callable[[Sequence[Row]], Any]


class Drawn(NamedTuple):
    """A figure of a task, whose CSV, PNG and SVG have its name."""

    name: str
    task: str
    title: str
    caption: str


FIGURES = (
    Figure(
        "figure1",
        "Loss against trainable parameters (figure 1)",
        "Held-out loss of the best checkpoint, the mean over seeds with its deviation. The "
        "colour is the rank of the updates.",
        loss_rows.by_count,
        points.by_count,
    ),
    Figure(
        "figure3",
        "Ranks by layer and method (figure 3)",
        "Means over seeds. The grey line is the full rank. A rank near it says little without the "
        "entropy rank and the stable rank below.",
        rank_rows.ranks,
        lines.ranks,
    ),
    Figure(
        "figure7",
        "Ranks of methods of high rank (figure 7)",
        "As figure 3, of the methods whose mean rank is above half of the full one.",
        rank_rows.high_ranks,
        lines.ranks,
    ),
    Figure(
        "figure4",
        "Loss against trainable parameters by scheme (figure 4)",
        "TeRA runs that differ in the tensorization alone.",
        loss_rows.by_scheme,
        points.by_scheme,
    ),
    Figure(
        "figure5",
        "Ranks by layer and scheme (figure 5)",
        "TeRA runs that differ in the tensorization alone; means over seeds.",
        loss_rows.ranks_by_scheme,
        lines.ranks_by_scheme,
    ),
    Figure(
        "figure6",
        "Draws of the frozen factors (figure 6)",
        "TeRA runs that differ in the draws of the factors alone. Bars are means above the lowest "
        "mean, dots are seeds, and the numbers are mean and deviation of the loss.",
        loss_rows.by_init,
        bars.by_value,
    ),
    Figure(
        "table6",
        "Target layers (Table 6)",
        "TeRA runs that differ in the adapted layers alone; bars as in figure 6.",
        loss_rows.by_targets,
        bars.by_value,
    ),
    Figure(
        "table8",
        "Sharing of the frozen network (Table 8)",
        "TeRA runs that differ in the sharing alone; bars as in figure 6. 'none' is TeRA_unique.",
        loss_rows.by_sharing,
        bars.by_value,
    ),
    Figure(
        "spectra",
        "Spectra of the updates",
        "Singular values as parts of the largest, geometric means over layers and seeds.",
        rank_rows.spectra,
        lines.spectra,
    ),
    Figure(
        "drift",
        "Drift from the base",
        "The Frobenius norm of an update as a part of its kernel's; means over seeds.",
        rank_rows.drift,
        lines.drift,
    ),
    Figure(
        "intruders",
        "Intruder dimensions",
        "Of the first ten input directions of W + ΔW, how many have a cosine below ε with every "
        "direction of W. Means over layers and seeds.",
        rank_rows.intruders,
        lines.intruders,
    ),
    Figure(
        "overlaps",
        "Overlap of principal subspaces between layers and seeds",
        "Up to eight first directions of ΔW. Full marks are inputs, open ones outputs; lines reach "
        "from the lowest pair to the highest. Ticks are what directions at random have.",
        overlap_rows.within,
        bars.overlaps,
    ),
    Figure(
        "overlaps-settings",
        "Overlap of principal subspaces between methods",
        "The same layers of runs with the same seed; means over layers, modules, sides and seeds.",
        overlap_rows.between,
        tiles.matrix,
    ),
    Figure(
        "forgetting",
        "Forgetting",
        "The rise of the NLL of another file by the training; bars are means, dots are runs.",
        loss_rows.elsewhere,
        bars.elsewhere,
    ),
    Figure(
        "values",
        "Values of d by mode",
        "Parts of the trained values in 40 bins, all layers and seeds together. Vectors of TeRA "
        "are d1, d2 and so on, inputs first.",
        rank_rows.histograms,
        tiles.histograms,
    ),
)


def draw(name: str, runs: Sequence[Analysed]) -> Any:
    """A figure of matplotlib, for a notebook.

    Args:
        name: of one of :data:`FIGURES`.
        runs: of one task, in their order.

    Raises:
        ImportError: without matplotlib.
        ValueError: for an unknown name; for runs of several tasks, or that lack what the figure
            needs.
    """
    pictures.require()
    known = {figure.name: figure for figure in FIGURES}
    if name not in known:
        raise ValueError(f"there is no figure {name!r}; there are {', '.join(known)}")
    if len(tasks := {run.member.task for run in runs}) > 1:
        raise ValueError(f"{name} is of one task; the runs are of {', '.join(sorted(tasks))}")
    rows = known[name].rows(runs)
    if isinstance(rows, str):
        raise ValueError(f"{name}: {rows}")
    with style.settings():
        return known[name].draw(rows)


def write(runs: Sequence[Analysed], output: Path) -> tuple[list[Drawn], list[str]]:
    """Write the table and the pictures of every figure that the runs have the data for.

    Args:
        runs: in their order.
        output: a directory that is there.

    Returns:
        The figures, and for each that is left out, what it needs, in a line.

    Raises:
        ImportError: without matplotlib.
    """
    drawn: list[Drawn] = []
    left_out: list[str] = []
    for task in dict.fromkeys(run.member.task for run in runs):
        own = [run for run in runs if run.member.task == task]
        for figure in FIGURES:
            found = figure.rows(own)
            if isinstance(found, str):
                left_out.append(f"{figure.name} of {task}: {found}")
                continue
            name = f"{figure.name}-{task}"
            table.write(output / f"{name}.csv", found)
            with style.settings():
                picture = figure.draw(table.read(output / f"{name}.csv"))
                pictures.save(picture, output, name)
            drawn.append(Drawn(name, task, figure.title, figure.caption))
    return drawn, left_out
