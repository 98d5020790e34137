"""The third task's lines and tables."""

import math
import statistics

import pytest
from scipy import stats

from benchmarks.commonsense import rows, tables
from benchmarks.commonsense.tables import Pair
from tests.benchmarks.commonsense.made import row
from train.studies.reports.summaries import compare, summarize
from train.studies.variants import BASE

ROWS = [
    row(BASE, 0.0, 0),
    row("tera", 1e-2, 0, 2.0, (9.0, 9.0)),
    row("tera", 3e-2, 0, 1.0, (2.0, 3.0), (0.5, 0.75)),
    row("tera", 3e-2, 1, 1.0, (2.25, 3.5), (0.75, 1.0)),
    row("tera", 3e-2, 2, 1.0, (2.5, 4.0), (0.25, 0.5)),
    row("vera", 1e-1, 0, 1.0, (1.0, 2.5)),
    row("vera", 1e-1, 1, 1.0, (1.5, 2.25)),
    row("vera", 1e-1, 2, 1.0, (2.0, 1.0)),
]


def test_the_table_has_means_over_sub_tasks_and_spreads_over_seeds():
    text = tables.markdown(ROWS, [BASE, "vera", "tera"], "tera", [Pair("tera", "vera")])
    means, *_ = text.split("\n\n")
    nll = [2.5, 2.875, 3.25]
    assert means.splitlines()[2:] == [
        "| base | 0 |  | 1 | 1.5000 | 37.50 | 37.50 | 1.5000 |",
        "| `vera` | 1,234 | 1e-01 | 3 | 1.7083 ± 0.1909 | 37.50 ± 0.00 | 37.50 ± 0.00 "
        "| 1.7083 ± 0.1909 |",
        f"| `tera` | 1,234 | 3e-02 | 3 | 2.8750 ± {statistics.stdev(nll):.4f} | 62.50 ± 25.00 "
        "| 62.50 ± 25.00 | 2.8750 ± 0.3750 |",
    ]
    assert "| `tera` | 2.2500 | 3.5000 |" in text
    assert "| `tera` | 50.00 | 75.00 |" in text
    gains = [1.0, 0.75, 0.5, 0.5, 1.25, 3.0]  # of vera, by sub-task and seed
    two_sided = stats.wilcoxon(gains).pvalue
    lower = stats.wilcoxon(gains, alternative="greater").pvalue
    against, second = text.split("Against ")[1:]
    assert against.startswith("`tera`, over pairs of sub-task and seed:")
    expected = f"6 | {-statistics.fmean(gains):+.4f} | {two_sided:.3g} | {lower:.3g} | 0.0312 |"
    assert f"| `vera` | {expected}" in against
    assert second.startswith("`vera`")
    assert "| `tera` | 6 | +1.1667 |" in second
    assert "| base |" in text
    assert "base |" not in against + second


def test_a_pair_is_a_sub_task_and_a_seed_that_both_have():
    fewer = [each for each in ROWS if (each.variant, each.seed) != ("vera", 2)]
    found = summarize([each for one in fewer for each in one.by_task()], 300)
    assert [(each.variant, each.pairs) for each in compare(found, "tera")] == [("vera", 4)]


def test_runs_are_read_again_and_those_of_other_records_refused(tmp_path):
    file = tmp_path / "r.jsonl"
    given = [ROWS[0], row("tera", 3e-2, 0, math.inf, (math.inf, 2.0), note="step 2")]
    for each in given:
        rows.append(file, each)
    assert rows.read(file) == given
    with file.open("a") as stream:
        stream.write('{"variant": "te')
    assert rows.read(file) == given
    rows.require_same(file, given, records="r", steps=300, base="b")
    for name, value in (("records", "s"), ("steps", 10), ("base", "c")):
        with pytest.raises(ValueError, match=f"with {name} .* another --output"):
            rows.require_same(file, given, **{name: value})
    file.write_text(file.read_text().splitlines()[0].replace('"a": 1.0, ', "", 1) + "\n")
    with pytest.raises(ValueError, match="line 1 has scores of different sub-tasks"):
        rows.read(file)
