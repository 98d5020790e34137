"""How well rules predict: the correlations, and the figures that the page prints."""

from pathlib import Path

import pytest
from scipy import stats

from benchmarks import planner
from benchmarks.planner import Known
from benchmarks.variants import CHOICES, METHODS
from train.studies.results import Results

PAGE = Path(planner.__file__).parents[1] / "docs" / "planning.md"


def test_a_perfect_order_has_correlation_one_and_a_constant_none():
    schemes = [
        Known(str(i), i > 1, (i,), trained, 7.0, {"T": loss})
        for i, (trained, loss) in enumerate([(5, 0.1), (9, 0.2), (6, 0.3), (7, 0.4), (8, 0.5)])
    ]
    whole, planned = planner.correlations(schemes)
    assert (whole.zeroed, whole.number, planned.number) == (0, 5, 3)
    assert whole.rule == pytest.approx(1)
    counts, losses = [-5, -9, -6, -7, -8], [0.1, 0.2, 0.3, 0.4, 0.5]
    assert whole.trained == pytest.approx(stats.spearmanr(counts, losses).statistic)
    assert not planner.predicts([whole, planned])  # none is of the unseen task
    assert planner.predicts([planned._replace(task=planner.UNSEEN)])
    assert not planner.predicts([planned._replace(task=planner.UNSEEN, trained=2.0)])


def test_the_page_has_the_figures_of_the_committed_runs():
    results = Results(planner.RESULTS, 300)
    schemes = planner.known(results.runs, (*METHODS, *CHOICES), planner.unseen(planner.HELD_OUT))
    rows = planner.correlations(schemes)
    page = PAGE.read_text()
    for row in rows:
        kind = "all variants of TeRA" if row.schemes == "all" else "those that could be proposed"
        figures = " | ".join(f"{each:.2f}" for each in row[3:])
        if (row.schemes, row.task) != ("all", planner.UNSEEN):
            assert f"| {kind} | {row.task} | {row.number} | {figures} |" in page
    assert not planner.predicts(rows)
    assert "**They do not predict.**" in page
