"""Runs of a study as figures take them, and a figure for a notebook."""

import dataclasses
import json
import statistics

import pytest

from tests.train.analysis.made_up import analysed
from train.analysis import figures, loss_rows
from train.analysis.study_runs import of_study
from train.studies import schema
from train.studies.results import Result
from train.studies.variants import Variant

SPECS = ("tera:init=normal", "tera_iden", "lora:rank=4", "tera:init=orthogonal")


SIZES = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
}


def result(variant, rate, seed, validation, test, steps=6):
    return Result(variant, "own", rate, seed, validation, test, 100, 0.1, "cpu", steps)


RESULTS = (
    result(SPECS[0], 0.1, 0, 2.0, 2.1),
    result(SPECS[0], 0.1, 1, 2.9, 2.3),
    result(SPECS[0], 0.3, 0, 2.5, 1.0),
    result(SPECS[1], 0.3, 0, 1.9, 1.8),
    result(SPECS[1], 0.1, 0, 1.0, 1.0, steps=3),
    result(SPECS[2], 0.1, 0, 1.5, 1.6),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    model = tmp_path_factory.mktemp("model")
    (model / "config.json").write_text(json.dumps(SIZES))  # without weights
    task = schema.TaskConfig("own", "own.json")
    config = schema.StudyConfig(str(model), (task,), SPECS, steps=6)
    study = schema.make(config, tuple(map(Variant.parse, SPECS)))
    return of_study(study, RESULTS, {SPECS[2]: 0.25})


def test_whole_runs_at_the_chosen_rate_have_the_losses_of_the_test_part(runs):
    rows = {row["label"]: row for row in loss_rows.by_count(runs)}
    assert [*rows] == [*SPECS[:3]]  # the fourth has no results
    assert rows[SPECS[0]]["nll"] == pytest.approx(statistics.fmean([2.1, 2.3]))
    assert [rows[name]["seeds"] for name in SPECS[:3]] == [2, 1, 1]
    assert [rows[name]["rank_percent"] for name in SPECS[:3]] == [None, None, 25]
    assert [run.member.seed for run in runs] == [0, 1, 0, 0]
    assert [run.member.frozen_seed for run in runs[:2]] == [0, 1]


def test_settings_stand_together_though_each_has_a_rate_of_its_own(runs):
    losses = [(row["value"], row["nll"]) for row in loss_rows.by_init(runs)]
    assert losses == [("normal", 2.1), ("normal", 2.3), ("identity", 1.8)]
    untuned = [run._replace(member=dataclasses.replace(run.member, tuned=False)) for run in runs]
    assert "alone" in loss_rows.by_init(untuned)


@pytest.mark.long
def test_a_figure_is_drawn_of_one_task_and_says_what_it_lacks(runs):
    (known, white) = figures.draw("figure1", runs).axes[0].collections[-2:]
    assert known.get_offsets().tolist() == [[100, 1.6]]
    assert len(white.get_offsets()) == 2
    with pytest.raises(ValueError, match="there is no figure 'figure9'; there are figure1"):
        figures.draw("figure9", runs)
    with pytest.raises(ValueError, match="table6: needs TeRA runs with a held-out loss"):
        figures.draw("table6", runs)
    other = runs[0]._replace(member=dataclasses.replace(runs[0].member, task="other"))
    with pytest.raises(ValueError, match="figure1 is of one task; the runs are of other, own"):
        figures.draw("figure1", [*runs, other])


def test_names_have_room():
    every = tuple(f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down"))
    runs = [
        ("tera", 0, 2.0 + 0.1 * modes, {"num_modes": modes, "targets": targets, "init": "identity"})
        for modes in (2, 4)
        for targets in (every, every[:6])
    ]
    figure = figures.draw("figure4", analysed(*runs))
    figure.draw_without_rendering()
    assert figure.legends
    assert all(
        box.x0 >= 0 and box.x1 <= figure.bbox.width
        for box in (legend.get_window_extent() for legend in figure.legends)
    )
