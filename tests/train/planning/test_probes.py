"""Successive halving: who runs for how long, and that what is there is not run again."""

import csv
import dataclasses
import runpy
from unittest import mock

import pytest

from train import compare, plan_scheme
from train.config import parse
from train.planning import probes
from train.planning.probe import order
from train.studies import command_line, loop, schema
from train.studies.jobs import trainer, workers
from train.studies.jobs.job import perform
from train.studies.jobs.trainer import Base
from train.studies.parts import Parts
from train.studies.results import Result, Results
from train.studies.variants import BASE

METHODS = [f"tera:num_modes={number}" for number in (2, 3, 4, 5, 6)]
LOSSES = dict(zip(METHODS, (3.0, 1.0, 2.0, 5.0, 4.0), strict=True))


@pytest.fixture
def study():
    config = {
        "model": "m",
        "tasks": [{"name": "A", "path": "a.json"}],
        "methods": METHODS,
        "rates": [1e-2, 3e-2],
        "steps": 80,
        "seeds": 2,
        "settings": {"optim": {"warmup_steps": 20}},
    }
    return schema.make(schema.build(config))


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Runs that are made, each with a loss by its variant, rate and seed."""
    made = []

    def trained(study, variant, task):
        def train(rate, seed, steps):
            made.append((variant, task, rate, seed, steps))
            if variant == METHODS[4]:
                raise ValueError("it does not fit")
            warmup = study.run(study.variant(variant), study.task(task)).optim.warmup_steps
            assert warmup == {20: 5, 40: 10, 80: 20, 0: 20}[steps]
            loss = LOSSES.get(variant, 9.0) + seed + (rate == 1e-2)
            return Result(variant, task, rate, seed, loss, loss, 1, 0.1, "cpu", steps)

        train.untrained = lambda: Result(BASE, task, 0.0, 0, 9.0, 9.0, 0, 0.0, "cpu")
        return train

    def here(study, parts, jobs, results, check):
        for job in jobs:
            train = trained(study, *job)
            monkeypatch.setattr("train.studies.jobs.job.Trainer", lambda *_, train=train: train)
            base, own = mock.Mock(spec=Base), parts[job.task]
            perform(job, study, base, own, results.of(*job), results.append)

    def enter(*_):
        data = {"A": mock.Mock(spec=Parts)}
        return loop.Opened(data, Results(tmp_path / "results.jsonl"), lambda _: None)

    monkeypatch.setattr(loop, "enter", enter)
    monkeypatch.setattr(workers, "here", here)
    return made


def test_half_of_the_schemes_go_on_and_no_run_is_made_twice(study, started, tmp_path):
    found = probes.run(study, tmp_path, "")
    steps = {name: probe.steps for name, probe in found.items()}
    assert steps == dict(zip(METHODS[:4], (20, 80, 40, 20), strict=True))  # of 4 that can, 2, 1
    best = found[METHODS[1]]
    assert best.loss == pytest.approx((1.5, 2**-0.5))
    assert (best.seeds, best.rates) == (2, {"A": 3e-2})
    assert found[METHODS[3]].loss == (5.0, None)
    ranked = sorted(METHODS, key=lambda name: order(found, name))
    assert ranked == [METHODS[i] for i in (1, 2, 0, 3, 4)]
    runs = [each for each in started if each[0] != BASE]
    assert len({*runs}) == len(runs)
    seeds = {each[3] for each in runs if each[4] == 80}
    assert (seeds, {each[3] for each in runs if each[4] < 80}) == ({0, 1}, {0})
    started.clear()
    assert probes.run(study, tmp_path, "") == found
    assert started == []


def test_an_error_says_that_no_scheme_could_be_trained(study, started, tmp_path):
    only = schema.make(study.config, study.variants[-1:])
    with pytest.raises(ValueError, match=r"for 20 steps: tera:num_modes=6 on A \(.*does not fit\)"):
        probes.run(only, tmp_path, "")


def test_a_loss_is_the_mean_of_the_tasks_over_the_seeds_that_both_have(study, tmp_path):
    tasks = (*study.config.tasks, schema.TaskConfig("B", "b.json"))
    study = dataclasses.replace(study, config=dataclasses.replace(study.config, tasks=tasks))
    results = Results(tmp_path / "results.jsonl")
    for task, rate, seed, steps, loss in [
        *[("A", 1e-2, 0, 80, 1.0), ("A", 3e-2, 0, 80, 2.0), ("A", 1e-2, 1, 80, 1.5)],
        *[("A", 1e-2, 2, 80, 9.0), ("B", 3e-2, 0, 80, 3.0), ("B", 3e-2, 0, 20, 0.0)],
    ]:
        row = Result(METHODS[0], task, rate, seed, loss, 7.0, 1, 0.1, "cpu", steps)
        results.append(row)
    found = probes.measured(study, METHODS[0], results)
    assert found == ((2.0, None), 80, 1, {"A": 1e-2, "B": 3e-2})
    results.append(Result(METHODS[0], "B", 3e-2, 1, 2.5, 7.0, 1, 0.1, "cpu", 80))
    assert probes.measured(study, METHODS[0], results).loss == (2.0, 0.0)
    assert probes.measured(study, METHODS[1], results) is None


@pytest.fixture
def flags(tiny_llama, records_path, tmp_path):
    one_shape = ("prompt=hira", "max_prompt=48", "max_response=8", "packed_length=None")
    return [
        f"--model={tiny_llama}",
        f"--data=T={records_path}[:40]",
        *("--validation-rows=6", "--test-rows=6", "--steps=2", "--seeds=2", "--workers=1"),
        *("--set=loop.batch_size=2", "--set=model.remat=none"),
        *[f"--set=data.{each}" for each in one_shape],
        f"--output={tmp_path / 'out'}",
    ]


@pytest.mark.long
def test_runs_are_shared_with_compare_and_the_winner_is_written(
    flags, tmp_path, monkeypatch, capsys
):
    plan = [*flags, "--budget=300", "--rows=2", "--targets", "v_proj", "q_proj"]
    plan_scheme.main(plan)
    out = tmp_path / "out"
    with (out / "plan.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [(row["from"], row["steps"], row["seeds"]) for row in rows] == [
        ("measured", "2", "2"),
        ("measured", "1", "1"),
    ]
    results = Results(out / loop.RESULTS)
    runs = results.of(rows[0]["method"], "T")
    assert {(run.steps, run.seed) for run in runs} == {(1, 0), (2, 0), (2, 1)}
    assert {run.trained for run in runs} == {int(rows[0]["trained"])}
    last = [run.validation for run in runs if run.steps == 2]
    assert float(rows[0]["loss"]) == pytest.approx(sum(last) / 2, abs=1e-4)
    monkeypatch.setattr(trainer, "load", None)  # no run is left
    before = (out / loop.RESULTS).read_bytes()
    plan_scheme.main(plan)
    given = [*flags, "--methods", rows[0]["method"], "--rates=3e-2"]
    args = compare._parser().parse_args(command_line.spaced(given))
    same = schema.make(schema.build(command_line.tree(args)))
    assert loop.run(same, out, "") == ((),)
    assert (out / loop.RESULTS).read_bytes() == before
    assert f"{rows[0]['method']} skipped: its 3 runs are there" in capsys.readouterr().out
    tree = runpy.run_path(str(out / "winner.py"))["get_config"]()
    config = parse(tree)  # as train.main does; tests/pages trains with such a file
    assert config.method.targets == tuple(rows[0]["targets"].split("+"))
    assert (config.loop.steps, config.optim.learning_rate) == (2, 3e-2)
    assert config.data.path in flags[1]
