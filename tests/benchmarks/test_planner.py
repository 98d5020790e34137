"""How well rules and short runs predict: correlations, the figures of the page, and the runs."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from scipy import stats

from benchmarks import planner, short_runs
from benchmarks.planner import Known
from benchmarks.variants import variants
from train.planning import probes
from train.studies.results import Result, Results
from train.studies.schema import TaskConfig
from train.studies.variants import BASE

KINDS = {
    "all": "all variants of TeRA",
    "planned": "those that could be proposed",
    "held out": "those run after the rules were made",
}
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
    held_out = [
        planned._replace(schemes="held out", task=task, number=planner.ENOUGH)
        for task in planner.TASKS
    ]
    assert planner.predicts(held_out)
    assert not planner.predicts([held_out[0]._replace(rule=0.7), held_out[1]])
    assert not planner.predicts([held_out[0]._replace(number=11), held_out[1]])


def test_the_page_has_the_figures_of_the_committed_runs():
    results = Results(planner.RESULTS, 300)
    schemes = planner.known(results.runs, planner.VARIANTS, planner.unseen(planner.HELD_OUT))
    rows = planner.correlations(schemes)
    page = PAGE.read_text()
    for row in rows:
        kind = KINDS[row.schemes]
        figures = " | ".join(f"{each:.2f}" for each in row[3:6])
        if (row.schemes, row.task) != ("all", planner.UNSEEN):
            assert f"| {kind} | {row.task} | {row.number} | {figures} |" in page
    assert not planner.predicts(rows)
    assert "**They do not predict.**" in page


TASKS = planner.TASKS
SPECS = ("tera:num_modes=3,init=orthogonal", "tera:num_modes=3", "tera_iden:num_modes=3")
NAMES = [each.name for each in variants(SPECS)]


def result(variant, task, steps, loss, seed=0):
    return Result(variant, task, 3e-2, seed, loss, 9.0, 1, 0.1, "cpu", steps)


def test_the_runs_are_the_first_ones_of_the_planner():
    study = short_runs.study("m", dict.fromkeys(TASKS, "r.json"), variants(SPECS))
    assert (study.config.steps, study.config.seeds, study.config.rates) == (75, 1, (3e-2,))
    runs = [study.run(each, task) for each in study.variants for task in study.config.tasks]
    assert {(run.loop.batch_size, run.optim.warmup_steps) for run in runs} == {(32, 15)}
    assert [task.name for task in study.config.tasks] == [*TASKS]


def test_short_runs_on_both_tasks_are_a_predictor(tmp_path):
    file = tmp_path / "probes.jsonl"
    study = short_runs.study("m", dict.fromkeys(TASKS, "r.json"), variants(SPECS))
    results = Results(file)
    for task in TASKS:
        for name, loss in zip(NAMES, (1.0, 3.0, 2.0), strict=True):
            results.append(result(name, task, 75, loss))
            results.append(result(name, task, 300, -loss))  # of another length
    schemes = [
        Known(name, True, (i,), 5 + i, 7.0, {**dict.fromkeys(TASKS, loss), "other": loss})
        for i, (name, loss) in enumerate(zip(NAMES, (0.1, 0.3, 0.2), strict=True))
    ]
    found = planner.probed(schemes, short_runs.losses(study, file))
    rows = planner.correlations(found)
    assert {row.task for row in rows} == {*TASKS}
    assert [row.probe for row in rows] == pytest.approx([1.0] * len(rows))
    assert not planner.probes_predict(rows)  # of three schemes
    enough = [row._replace(number=planner.ENOUGH, trained=0.5) for row in rows]
    assert planner.probes_predict(enough)
    for worse in ({"probe": 0.7}, {"trained": 1.0}, {"probe": None}):
        assert not planner.probes_predict([enough[0]._replace(**worse), *enough[1:]])
    without = short_runs.losses(study, file)
    del without[NAMES[0], "ConvAI2"]
    assert len(planner.probed(schemes, without)) == 2
    assert planner.probed(schemes, {}) == []


def test_flags_of_the_short_runs_are_needed(monkeypatch, capsys, tmp_path):
    argv = ["planner", "--probe", f"--output={tmp_path / 'p.jsonl'}", "--model=m"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit):
        planner.main()
    assert "--gsm8k is missing, which --probe needs" in capsys.readouterr().err


@pytest.mark.long
def test_a_short_run_is_a_line_and_is_not_made_twice(tiny_llama, tmp_path, capsys):
    records = tmp_path / "r.json"
    rows = [{"instruction": f"{i}?", "output": f"it is {i % 3}"} for i in range(40)]
    records.write_text(json.dumps(rows))
    file = tmp_path / "probes.jsonl"
    study = short_runs.study(str(tiny_llama), {"GSM8K": str(records)}, variants(SPECS[:1]))
    task = TaskConfig("GSM8K", str(records), "[:32]", "[32:36]", "[36:]", data={"max_response": 8})
    config = dataclasses.replace(study.config, tasks=(task,))
    whole = dataclasses.replace(study, config=config)
    study = probes.rung(whole, whole.variants, 2, 1)
    assert short_runs.perform(study, file) == ()
    losses = short_runs.losses(study, file)
    (base,) = Results(file).of(BASE, "GSM8K")
    assert [*losses] == [(NAMES[0], "GSM8K")]
    assert losses[NAMES[0], "GSM8K"] != base.validation
    before = file.read_bytes()
    assert short_runs.perform(study, file) == ()
    assert file.read_bytes() == before
    assert f"{NAMES[0]} " in capsys.readouterr().out
