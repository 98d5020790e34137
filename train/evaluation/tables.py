"""Tables of evaluated runs in the layout of the TeRA paper, as Markdown and as CSV."""

import csv
import io
import itertools
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from . import printed
from .significance import FEWEST_PAIRS, Comparison, compare, exact_signed_rank
from .summaries import LAYOUTS, Layout, Summary, metrics_of


class Cell(NamedTuple):
    """Mean and sample standard deviation in per cent; no deviation of one seed."""

    mean: float
    deviation: float | None
    seeds: int


class Row(NamedTuple):
    """A line of a table: a cell for each heading, None where nothing was measured."""

    model: str
    method: str
    trained: int
    percent: float
    cells: tuple[Cell | None, ...]


class Table(NamedTuple):
    """A table of the paper, filled."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]


def tables(summaries: Sequence[Summary]) -> list[Table]:
    """The paper's tables, as far as there are runs for them.

    Models, and the methods of each, come in the order of the summaries. A cell that no seed has is
    empty. The Average is over each seed's columns first; it is empty unless every seed has all.
    """
    groups: dict[str, dict[tuple[str, int], list[Summary]]] = {}
    for one in summaries:
        groups.setdefault(one.model, {}).setdefault((one.method, one.trained), []).append(one)
    found = []
    for layout in LAYOUTS:
        tasks = {column.task for column in layout.columns}
        rows = []
        for group in itertools.chain.from_iterable(of.values() for of in groups.values()):
            of_table = [one for one in group if one.task in tasks]
            if of_table:
                rows.append(_row(layout, of_table))
        headings = tuple(column.heading for column in layout.columns)
        if rows:
            found.append(Table(layout.title, headings + ("Average",) * layout.average, tuple(rows)))
    return found


def _row(layout: Layout, group: Sequence[Summary]) -> Row:
    seeds: dict[int, dict[tuple[str, str], float]] = {}
    for one in group:
        of_seed = seeds.setdefault(one.seed, {})
        for metric in metrics_of(one.task):
            of_seed[one.task, metric] = 100 * one.metrics[metric]
    scores = list(seeds.values())
    keys = [(column.task, column.metric) for column in layout.columns]
    cells = [_cell([of_seed[key] for of_seed in scores if key in of_seed]) for key in keys]
    if layout.average:
        whole = all(len(of_seed) == len(keys) for of_seed in scores)
        cells.append(_cell([fmean(of_seed.values()) for of_seed in scores]) if whole else None)
    first = group[0]
    return Row(first.model, first.method, first.trained, first.percent, tuple(cells))


def _cell(scores: Sequence[float]) -> Cell | None:
    if not scores:
        return None
    return Cell(fmean(scores), stdev(scores) if len(scores) > 1 else None, len(scores))


def markdown(summaries: Sequence[Summary], baseline: str | None = None, exact: bool = False) -> str:
    """The tables and the comparisons of the methods.

    Args:
        summaries: of runs.
        baseline: as in :func:`train.evaluation.significance.compare`.
        exact: whether p values of the exact test stand beside the others.

    Raises:
        ValueError: when there is no such baseline.
    """
    parts = []
    for table in tables(summaries):
        lines = [["Model", "Method", "Params (%)", *table.headings]]
        for row in table.rows:
            cells = map(_text, row.cells)
            lines.append([row.model, row.method, f"{row.percent:.4f}", *cells])
        parts.append(f"## {table.title}\n\n{_grid(lines)}")
    comparisons = compare(summaries, baseline)
    if comparisons:
        lines = [["First", "Second", "Pairs", "p (two-sided)", "p (first is better)"]]
        lines += [[each.first, each.second, str(each.pairs), *_p(each)] for each in comparisons]
        if exact:
            lines[0] += _EXACT_HEAD
            tested = compare(summaries, baseline, exact_signed_rank)
            for line, each in zip(lines[1:], tested, strict=True):
                line += _p(each)
        parts.append(f"## Wilcoxon signed-rank test\n\n{_grid(lines)}")
    others = sorted({one.task for one in summaries if not metrics_of(one.task)})
    if others:
        parts.append(f"Evaluated, but in no table: {', '.join(others)}.")
    return "\n\n".join(parts)


_EXACT_HEAD = ["exact (two-sided)", "exact (first is better)"]


def _p(one: Comparison) -> list[str]:
    none = "too few pairs" if one.pairs < FEWEST_PAIRS else "equal"
    return [none if p is None else f"{p:.3g}" for p in (one.two_sided, one.better)]


def paper(exact: bool = False) -> str:
    """Appendix H of the paper from the scores that its tables print.

    Args:
        exact: whether p values of the exact test stand beside those of the approximation.
    """
    head = ["First", "Second", "Pairs", "p (two-sided)", "p (first is better)"]
    lines = [[*head, *_EXACT_HEAD[: 2 * exact], "the paper's", "the paper's digits"]]
    for one in printed.tests():
        exactly = (one.exact_two_sided, one.exact_better)[: 2 * exact]
        p_values = [f"{p:.3g}" for p in (one.two_sided, one.better, *exactly)]
        lines.append(["TeRA", one.method, str(one.pairs), *p_values, one.paper, one.verdict])
    bold = [["Model", "Column", "TeRA", "higher", "by"]]
    bold += [
        [model, column, f"{ours:.2f}", f"{best:.2f}", name]
        for model, column, ours, name, best in printed.wrong_bold()
    ]
    name, gain = printed.gain("Llama-2-7B", "SVAMP")
    return "\n\n".join(
        [
            "## Appendix H from Tables 2 to 4: Wilcoxon signed-rank test, normal approximation",
            _grid(lines),
            "## Where TeRA is in bold print, and another adapter's score is higher",
            _grid(bold),
            f"Table 4, SVAMP, Llama-2-7B: TeRA is {gain:.1f} above {name}; the text says 1.7.",
        ]
    )


def _text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    spread = "" if cell.deviation is None else f" ± {cell.deviation:.2f}"
    return f"{cell.mean:.2f}{spread}"


def _grid(lines: Sequence[Sequence[str]]) -> str:
    """A table of Markdown: the first line is its head, and after two columns come numbers."""
    rule = ["---", "---", *["---:"] * (len(lines[0]) - 2)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


_CSV = ("table", "model", "method", "trained", "percent", "column", "mean", "sd", "seeds")


def comma_separated(summaries: Sequence[Summary]) -> str:
    """A line for each cell of the tables that is not empty, in per cent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV)
    for table in tables(summaries):
        for model, method, trained, percent, cells in table.rows:
            for heading, cell in zip(table.headings, cells, strict=True):
                if cell is not None:
                    writer.writerow([table.title, model, method, trained, percent, heading, *cell])
    return text.getvalue()
