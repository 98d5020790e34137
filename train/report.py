"""Tables of evaluated runs in the layout of the TeRA paper, and a test of significance.

    python -m train.report runs/tera-0 runs/tera-1 runs/vera-0 runs/vera-1 --output=report

Reads ``<run>/evaluation/<task>/summary.json`` of each run, which ``train.evaluate`` writes. Runs of
the same model, method and count of trained parameters are one row, with mean and sample standard
deviation over their seeds. Prints Markdown; ``--output`` also gets ``report.md`` and
``report.csv``, which has a line for each cell, unrounded.
"""

import csv
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from scipy import stats

from . import command
from .evaluation.summaries import LAYOUTS, Layout, Summary, metrics_of, read

_FEWEST_PAIRS = 6


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


class Comparison(NamedTuple):
    """Wilcoxon's signed-rank test of two methods on the scores that both have.

    The p values are two-sided, and one-sided that ``first`` is better. They are None where the
    pairs are too few for a test, or all equal.
    """

    first: str
    second: str
    pairs: int
    two_sided: float | None
    better: float | None


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


def compare(summaries: Sequence[Summary], baseline: str | None = None) -> list[Comparison]:
    """Wilcoxon's signed-rank test between methods, as in the paper's Appendix H.

    A pair are the scores of two methods on the same model, seed, task and metric of the tables;
    averages are not paired. The p values are scipy's: exact for few pairs without ties, by the
    normal approximation otherwise. A method with several trained counts on one task stands for as
    many methods, which are named by the count.

    Args:
        summaries: of runs.
        baseline: compare every other method with this one only, which comes second.

    Raises:
        ValueError: when there is no such baseline.
    """
    scores = _scores(summaries)
    if baseline is None:
        couples = list(itertools.combinations(scores, 2))
    elif baseline in scores:
        couples = [(name, baseline) for name in scores if name != baseline]
    else:
        raise ValueError(f"baseline {baseline!r}; choose one of {sorted(scores)}")
    return [_comparison(first, second, scores) for first, second in couples]


def _scores(summaries: Sequence[Summary]) -> dict[str, dict[tuple[Any, ...], float]]:
    """The scores of each method by model, seed, task and metric."""
    counts: dict[tuple[str, str, str], set[int]] = {}
    for one in summaries:
        counts.setdefault((one.method, one.model, one.task), set()).add(one.trained)
    several = {method for (method, _, _), trained in counts.items() if len(trained) > 1}
    scores: dict[str, dict[tuple[Any, ...], float]] = {}
    for one in summaries:
        name = f"{one.method} ({one.trained} trained)" if one.method in several else one.method
        of_name = scores.setdefault(name, {})
        for metric in metrics_of(one.task):
            of_name[one.model, one.seed, one.task, metric] = one.metrics[metric]
    return scores


def _comparison(
    first: str, second: str, scores: dict[str, dict[tuple[Any, ...], float]]
) -> Comparison:
    ours, theirs = scores[first], scores[second]
    # Rounded, so that ties remain ties: 0.3 - 0.2 and 0.2 - 0.1 differ in the last bit.
    differences = [round(ours[key] - theirs[key], 12) for key in ours if key in theirs]
    pairs = len(differences)
    if pairs < _FEWEST_PAIRS or not any(differences):
        return Comparison(first, second, pairs, None, None)
    two_sided = float(stats.wilcoxon(differences).pvalue)
    better = float(stats.wilcoxon(differences, alternative="greater").pvalue)
    return Comparison(first, second, pairs, two_sided, better)


def markdown(summaries: Sequence[Summary], baseline: str | None = None) -> str:
    """The tables and the comparisons of the methods.

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
        for one in comparisons:
            none = "too few pairs" if one.pairs < _FEWEST_PAIRS else "equal"
            p_values = [none if p is None else f"{p:.3g}" for p in (one.two_sided, one.better)]
            lines.append([one.first, one.second, str(one.pairs), *p_values])
        parts.append(f"## Wilcoxon signed-rank test\n\n{_grid(lines)}")
    others = sorted({one.task for one in summaries if not metrics_of(one.task)})
    if others:
        parts.append(f"Evaluated, but in no table: {', '.join(others)}.")
    return "\n\n".join(parts)


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


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report, and write it."""
    parser = command.parser(main)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="directories of runs")
    parser.add_argument("--output", type=Path, metavar="DIR", help="for report.md and report.csv")
    parser.add_argument(
        "--baseline", metavar="NAME", help="compare each other method with this one only"
    )
    args = parser.parse_args(argv)

    files = [args.output / name for name in ("report.md", "report.csv")] if args.output else []
    for file in files:
        if file.exists():
            raise FileExistsError(f"{file} exists; remove it or choose another --output")
    summaries = read(args.runs)
    text = markdown(summaries, args.baseline)
    print(text)
    for file, content in zip(files, (text + "\n", comma_separated(summaries)), strict=False):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    command.run(main)
