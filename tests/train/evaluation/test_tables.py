from statistics import mean, stdev

import pytest

from tests.train.evaluation.summary_files import CHOICES, write
from train.evaluation import significance, summaries, tables
from train.evaluation.text_metrics import Metrics


def test_convai2_takes_the_fields_of_the_text_metrics():
    assert {column.metric for column in summaries.LAYOUTS[1].columns} == set(Metrics._fields)


def test_seeds_give_mean_and_sample_deviation(tmp_path):
    first, second, third = [0.61, 0.5], [0.64, 0.6], [0.7, 0.4]
    runs = []
    for seed, (aqua, svamp) in enumerate([first, second, third]):
        run = write(tmp_path / str(seed), "AQuA", aqua, seed=seed)
        runs.append(write(run, "SVAMP", svamp, seed=seed))
    (table,) = tables.tables(summaries.read(runs))
    (row,) = table.rows
    # By hand: the mean of 61, 64 and 70 is 65, and sqrt((16 + 1 + 25) / 2) = sqrt(21).
    assert row.cells[0] == pytest.approx((65, 21**0.5, 3))
    assert row.cells[1] == pytest.approx((50, 10, 3))
    assert "| 65.00 ± 4.58 | 50.00 ± 10.00 |" in tables.markdown(summaries.read(runs))
    assert "| 62.50 ± 2.12 |" in tables.markdown(summaries.read(runs[:2]))


def test_the_average_is_of_each_seed_first(tmp_path):
    values = {0: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 1: [0.2] * 8, 2: [0.9] * 8}
    runs = [tmp_path / str(seed) for seed in values]
    for run, (seed, scores) in zip(runs, values.items(), strict=True):
        for task, score in zip(CHOICES, scores, strict=True):
            write(run, task, score, seed=seed)
    (table,) = tables.tables(summaries.read(runs))
    averages = [45, 20, 90]
    assert table.headings[-1] == "Average"
    assert table.rows[0].cells[-1] == pytest.approx((mean(averages), stdev(averages), 3))


def test_a_missing_cell_and_its_average_are_empty(tmp_path):
    for seed in (0, 1):
        for task in CHOICES[:-1]:
            write(tmp_path / str(seed), task, 0.5, seed=seed)
    runs = [tmp_path / "0", tmp_path / "1"]
    line = tables.markdown(summaries.read(runs)).splitlines()[4]
    assert line.endswith("| 50.00 ± 0.00 |  |  |")
    # Of one seed it is there, but not all seeds have an average.
    write(tmp_path / "0", CHOICES[-1], 0.6)
    line = tables.markdown(summaries.read(runs)).splitlines()[4]
    assert line.endswith("| 50.00 ± 0.00 | 60.00 |  |")
    write(tmp_path / "1", CHOICES[-1], 0.6, seed=1)
    line = tables.markdown(summaries.read(runs)).splitlines()[4]
    assert line.endswith("| 60.00 ± 0.00 | 51.25 ± 0.00 |")


def test_a_table_needs_a_run(tmp_path):
    write(tmp_path / "a", "SVAMP", 0.5)
    write(tmp_path / "a", "gsm8k", 0.25)
    text = tables.markdown(summaries.read([tmp_path / "a"]))
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "## Arithmetic reasoning (accuracy, %)"
    ]
    assert text.endswith("Evaluated, but in no table: gsm8k.")


def test_tasks_of_one_seed_may_lie_in_several_runs(tmp_path):
    runs = [write(tmp_path / task, task, 0.5) for task in ("AQuA", "SVAMP")]
    (table,) = tables.tables(summaries.read(runs))
    (row,) = table.rows
    assert [cell.mean for cell in row.cells] == [50, 50]


def test_counts_of_trained_parameters_are_rows(tmp_path):
    small = write(tmp_path / "small", "AQuA", 0.5, method="hira", trained=1, percent=0.0078)
    large = write(tmp_path / "large", "AQuA", 0.6, method="hira", trained=32, percent=0.2484)
    both = summaries.read([small, large])
    (table,) = tables.tables(both)
    assert [(row.method, row.trained, row.cells[0].mean) for row in table.rows] == [
        ("hira", 1, 50),
        ("hira", 32, 60),
    ]
    # And methods of their own, where they meet on a task.
    (found,) = significance.compare(both)
    assert found == ("hira (1 trained)", "hira (32 trained)", 1, None, None)
