"""Rows of the figures, against what was planted in the runs."""

import statistics

import numpy as np
import pytest

from tests.train.analysis.made_up import analysed
from train.analysis import figures, loss_rows, overlap_rows, rank_rows, table


@pytest.fixture(scope="module")
def runs():
    return analysed(
        ("lora", 0, 2.0, {"rank": 4}),
        ("tera", 0, 2.5, {}),
        ("tera", 1, 2.7, {}),
        ("tera", 0, 2.9, {"init": "identity"}),
        ("tera", 0, 3.0, {"num_modes": 2}),
        ("tera", 0, 3.1, {"targets": ("v_proj",)}),
        ("tera", 0, 3.2, {"sharing": "none"}),
    )


def test_ranks_are_those_of_the_updates(runs):
    rows = rank_rows.ranks(runs)
    lora = [row for row in rows if row["label"] == "lora:rank=4"]
    assert [(row["module"], row["layer"]) for row in lora] == [
        (module, layer) for module in ("q_proj", "v_proj") for layer in range(3)
    ]
    assert {row["rank_float64"] for row in lora} == {4}
    tera = [row for row in rows if row["label"] == "tera"]
    assert {row["seeds"] for row in tera} == {2}
    assert {row["rank_float64"] for row in tera if row["module"] == "v_proj"} == {8}
    for row in rows:
        assert 1 <= row["stable_rank"] <= row["rank_float64"] <= row["full_rank"]
        assert row["rank_1e-2"] <= row["rank_float32"] <= row["rank_float64"]
        assert row["energy_rank_90"] <= row["energy_rank_99"] <= row["full_rank"]
    labels = {row["label"] for row in rank_rows.high_ranks(runs)}
    assert labels == {run.member.label for run in runs} - {"lora:rank=4"}


def test_losses_are_means_over_seeds(runs):
    rows = {row["label"]: row for row in loss_rows.by_count(runs)}
    assert rows["tera"]["nll"] == pytest.approx(2.6)
    assert rows["tera"]["deviation"] == pytest.approx(statistics.stdev([2.5, 2.7]))
    assert rows["lora:rank=4"]["deviation"] is None
    assert rows["lora:rank=4"]["rank_percent"] == pytest.approx(100 * (4 / 16 + 4 / 8) / 2)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (loss_rows.by_init, {"orthogonal": [2.5, 2.7], "identity": [2.9]}),
        (loss_rows.by_targets, {"q_proj+v_proj": [2.5, 2.7], "v_proj": [3.1]}),
        (loss_rows.by_sharing, {"shape": [2.5, 2.7], "none": [3.2]}),
    ],
)
def test_runs_that_differ_in_one_setting_stand_together(runs, rows, expected):
    found: dict[str, list[float]] = {}
    for row in rows(runs):
        found.setdefault(row["value"], []).append(row["nll"])
        assert row["fixed"] == ""
    assert found == expected
    assert "alone" in rows(runs[:3])


def test_schemes_stand_by_the_sides_that_they_split(runs):
    more = analysed(
        ("tera", 0, 2.5, {"tensorizations": ("16|16", "16|8")}),
        ("tera", 0, 2.6, {"tensorizations": ("4x4|4x4", "4x4|2x4")}),
    )
    rows = loss_rows.by_scheme([*runs, *more])
    assert {row["scheme"]: row["split"] for row in rows} == {
        "16|2x2x2x2, 16|2x2x2": "one side",
        "16|4x4, 16|2x4": "one side",
        "16|16, 16|8": "no side",
        "4x4|4x4, 4x4|2x4": "both sides",
    }
    assert {row["scheme"] for row in loss_rows.ranks_by_scheme(runs)} == {
        "16|2x2x2x2, 16|2x2x2",
        "16|4x4, 16|2x4",
    }


def test_overlaps_have_a_row_for_each_pair_of_seeds_and_settings(runs):
    within = overlap_rows.within(runs)
    layers = [row for row in within if row["kind"] == "layers"]
    assert len(layers) == 2 * 2 * len(runs)  # modules and sides
    assert {row["pairs"] for row in layers} == {3}
    seeds = [row for row in within if row["kind"] == "seeds"]
    assert {(row["label"], row["seed"], row["other_seed"]) for row in seeds} == {("tera", 0, 1)}
    between = overlap_rows.between(runs)
    assert len(between) == 2 * 2 * 6 * 5 // 2
    for row in [*within, *between]:
        assert 0 <= row["lowest"] <= row["mean"] <= row["highest"] <= 1 + 1e-12
    wide = [row for row in within if row["side"] == "in" and row["label"] == "tera"]
    assert {row["random"] for row in wide} == {0.5}  # 8 of 16


def test_histograms_count_every_value_once(runs):
    rows = rank_rows.histograms(runs)
    for label, seeds in (("tera", 2), ("lora:rank=4", 1)):
        own = [row for row in rows if (row["label"], row["array"]) == (label, "d1")]
        assert len(own) == rank_rows.BINS
        assert sum(row["count"] for row in own) == 9 * seeds
        assert sum(row["part"] for row in own) == pytest.approx(1)


def test_forgetting_is_the_rise_of_another_loss(runs):
    found = runs[0]._replace(elsewhere={"own": (2.0, 2.25)})
    (row,) = loss_rows.elsewhere([found, *runs[1:]])
    assert (row["label"], row["evaluation"], row["change"]) == ("lora:rank=4", "own", 0.25)
    assert "--metrics exact loss --compare" in loss_rows.elsewhere(runs)


def test_tables_are_read_as_they_were_written(runs, tmp_path):
    for figure in figures.FIGURES:
        rows = figure.rows(runs)
        if not isinstance(rows, str):
            table.write(tmp_path / "a.csv", rows)
            assert table.read(tmp_path / "a.csv") == [dict(row) for row in rows]


def test_intruders_rise_with_epsilon(runs):
    rows = [row for row in rank_rows.intruders(runs) if row["module"] == "q_proj"]
    for label in {row["label"] for row in rows}:
        counts = [row["intruders"] for row in rows if row["label"] == label]
        assert counts == sorted(counts)
        assert np.ptp(counts) > 0
