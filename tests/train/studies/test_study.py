"""A whole study on a tiny model: what it runs, where it goes on, what it refuses, its report."""

import csv
import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
from scipy import stats

from tests.margins import within
from train import compare, data
from train.studies import command_line, loop, schema
from train.studies.jobs import trainer
from train.studies.results import Results
from train.training import lock
from train.training import run as runs
from train.training.loop import held_out_loss, to_device
from train.training.steps.step import make_eval_step, make_train_step

LORA, TERA, BAD = "lora:rank=2", "tera:num_modes=2", "hira:rank=99"


def study(flags, output, *more):
    """Run it, and give what it ends with."""
    rates = ["--rates", "1e-2", "1e-1"]
    try:
        compare.main([*flags, *rates, f"--output={output}", *more])
    except SystemExit as end:
        return end.code
    return None


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory):
    """The output of a study of two methods, and one that fails."""
    output = tmp_path_factory.mktemp("study") / "out"
    end = study(flags, output, "--methods", LORA, BAD, TERA)
    assert end.startswith("failed: hira:rank=99 on T (rank 99, but the kernel (32, 32)")
    return output


def results(output):
    return Results(output / loop.RESULTS)


def test_each_method_has_its_rates_and_its_seeds(finished):
    found = results(finished)
    for name in (LORA, TERA):
        of = found.of(name, "T")
        assert [(run.learning_rate, run.seed) for run in of[:2]] == [(1e-2, 0), (1e-1, 0)]
        best = min(of[:2], key=lambda run: run.validation).learning_rate
        assert [(run.learning_rate, run.seed) for run in of[2:]] == [(best, 1)]
        assert len({run.test for run in of}) == 3
        assert {run.targets for run in of} == {"q_proj+v_proj"}
        assert all(run.peak_bytes > 4 * 50_848 for run in of)  # at least the base
    (base,) = found.of("base", "T")
    assert (base.steps, base.trained) == (0, 0)
    assert base.test > max(run.test for run in found.of(TERA, "T"))


def test_a_method_that_fails_is_a_row_and_the_others_go_on(finished):
    found = results(finished)
    failure = found.failure(BAD, "T")
    assert failure.error.startswith("rank 99, but the kernel (32, 32)")
    assert found.of(BAD, "T") == []
    assert len(found.of(TERA, "T")) == 3  # it came after
    assert f"| T | {BAD} | rank 99" in (finished / "report.md").read_text()


def test_the_report_has_the_figures_of_the_lines(finished):
    lines = [json.loads(line) for line in (finished / loop.RESULTS).read_text().splitlines()]
    table = (finished / "report.md").read_text().splitlines()
    whole = json.loads((finished / "report.json").read_text())
    for name in (LORA, TERA):
        own = [line for line in lines if line["variant"] == name]
        first = [line for line in own if line["seed"] == 0]
        rate = min(first, key=lambda line: line["validation"])["learning_rate"]
        kept = {line["seed"]: line for line in own if line["learning_rate"] == rate}
        tests, valid = ([kept[s][part] for s in (0, 1)] for part in ("test", "validation"))
        (row,) = [line.split(" | ") for line in table if line.startswith(f"| `{name}` | q_proj")]
        assert row[2] == f"{own[0]['trained']:,}"
        assert row[3] == f"{rate:.0e}*"  # one of two rates is always at the edge
        assert row[4] == f"{np.mean(valid):.4f} ± {np.std(valid, ddof=1):.4f}"
        assert row[5] == f"{np.mean(tests):.4f} ± {np.std(tests, ddof=1):.4f}"
        (summary,) = [each for each in whole["summaries"] if each["variant"] == name]
        assert summary["test"]["mean"] == pytest.approx(np.mean(tests))
        assert summary["tests"] == {"0": tests[0], "1": tests[1]}
    (compared,) = whole["comparisons"]
    assert (compared["variant"], compared["baseline"], compared["pairs"]) == (TERA, LORA, 2)
    tests = {each["variant"]: [*each["tests"].values()] for each in whole["summaries"]}
    expected = stats.wilcoxon(tests[TERA], tests[LORA])
    assert compared["two_sided"] == pytest.approx(expected.pvalue)
    with (finished / "pareto.csv").open() as file:
        assert {row["variant"] for row in csv.DictReader(file)} == {"base", LORA, TERA}
    for name in ("pareto.png", "pareto.svg"):
        assert (finished / name).stat().st_size


def test_the_report_is_made_again_without_a_run(finished, tmp_path, monkeypatch, capsys):
    output = shutil.copytree(finished, tmp_path / "out")
    before = (output / "report.md").read_text()
    for name in ("report.md", "report.json", "pareto.csv"):
        (output / name).unlink()
    monkeypatch.setattr(loop, "perform", None)
    compare.main(["--report", f"--output={output}"])
    assert (output / "report.md").read_text() == before == capsys.readouterr().out
    compare.main(["--report", f"--output={output}", f"--baseline={TERA}"])
    assert f"Against {TERA}" in (output / "report.md").read_text()
    with pytest.raises(ValueError, match="--baseline=vera is none of"):
        compare.main(["--report", f"--output={output}", "--baseline=vera"])
    with pytest.raises(FileNotFoundError, match=r"holds no study\.json"):
        compare.main(["--report", f"--output={tmp_path}"])


def test_extras_that_are_missing_cost_one_line_each(finished, tmp_path, monkeypatch):
    output = shutil.copytree(finished, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "train.evaluation.significance", None)
    compare.main(["--report", f"--output={output}"])
    notes = json.loads((output / "report.json").read_text())["notes"]
    assert len(notes) == 2
    assert all("pip install 'tera-jax[analysis]'" in note for note in notes)
    assert "## T" in (output / "report.md").read_text()


def test_a_killed_study_goes_on_and_runs_nothing_twice(flags, finished, tmp_path, capsys):
    output = shutil.copytree(finished, tmp_path / "out")
    file = output / loop.RESULTS
    whole = file.read_bytes().splitlines(keepends=True)
    last = json.loads(whole[-1])
    file.write_bytes(b"".join(whole[:-1]) + whole[-1][:40])
    capsys.readouterr()
    end = study(flags, output, "--methods", LORA, BAD, TERA)
    said = capsys.readouterr().out
    assert end.startswith("failed: hira")
    assert said.count("ms/step") == 1
    assert f"{LORA:<20} skipped: its 3 runs are there" in said
    assert f"{BAD:<20} skipped: it failed before" in said
    again = json.loads(file.read_bytes().splitlines()[-1])
    assert len(file.read_bytes().splitlines()) == len(whole)
    assert {**again, "seconds_per_step": 0} == {**last, "seconds_per_step": 0}


def test_the_base_is_not_loaded_where_nothing_is_left(flags, finished, tmp_path, monkeypatch):
    output = shutil.copytree(finished, tmp_path / "out")
    monkeypatch.setattr(trainer, "load", None)
    assert study(flags, output, "--methods", LORA) is None
    with pytest.raises(TypeError):  # but where something is
        study(flags, output, "--methods", LORA, "vera:rank=8")


def test_records_beyond_the_context_are_refused_before_the_base_is_loaded(
    flags, tmp_path, monkeypatch
):
    monkeypatch.setattr(trainer, "load", None)
    model, _, *rest = flags

    def start(words):
        rows = [{"prompt": f"{i}", "completion": "the sun " * words} for i in range(20)]
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        data = [f"--data=T={tmp_path / 'rows.json'}", "--set=data.prompt=auto"]
        study(
            [model, *data, *rest[:2], "--set=model.remat=none"], tmp_path / "out", "--methods=ia3"
        )

    message = r"task T: the longest record has [\d,]+ tokens, but the model's context has 256;"
    with pytest.raises(ValueError, match=message):
        start(200)
    with pytest.raises(TypeError):  # the base was to be loaded
        start(2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps=5"], "study.steps: 4 -> 5"),
        (["--set=loop.batch_size=4"], "methods.lora:rank=2.loop.batch_size: 2 -> 4"),
        (["--set=optim.b1=0.8"], "methods.lora:rank=2.optim.b1: 0.9 -> 0.8"),
        (["--test-rows=9"], "tasks.T.records.test"),
        (["--split-seed=1"], "tasks.T.records.train"),
        (["--set=data.loss=all"], "tasks.T.data.loss: 'assistant' -> 'all'"),
    ],
)
def test_other_settings_and_records_are_refused(flags, finished, more, message):
    before = (finished / loop.RESULTS).read_bytes()
    with pytest.raises(FileExistsError, match=message) as caught:
        study(flags, finished, "--methods", LORA, *more)
    assert "choose another --output" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (finished / loop.RESULTS).read_bytes() == before


def test_another_base_is_refused(flags, finished, tmp_path):
    output = shutil.copytree(finished, tmp_path / "out")
    content = json.loads((output / "study.json").read_text())
    (output / "study.json").write_text(json.dumps({**content, "base": "0123456789abcdef"}))
    with pytest.raises(FileExistsError, match="base: '0123456789abcdef' -> "):
        study(flags, output, "--methods", LORA, "vera:rank=8")
    (output / "study.json").unlink()
    with pytest.raises(FileExistsError, match=r"results\.jsonl without study\.json"):
        study(flags, output, "--methods", LORA)


def test_one_study_at_a_time_works_in_a_directory(flags, tmp_path):
    with (
        lock.held(tmp_path / "out"),
        pytest.raises(FileExistsError, match="choose another --output"),
    ):
        study(flags, tmp_path / "out", "--methods", LORA)


@pytest.mark.long
def test_two_processes_find_what_one_finds(flags, finished, tmp_path):
    end = study(flags, tmp_path / "out", "--methods", LORA, BAD, TERA, "--workers=2")
    assert end.startswith("failed: hira")
    ours, theirs = results(tmp_path / "out"), results(finished)
    for name in ("base", LORA, TERA):
        one, two = (
            [run._replace(seconds_per_step=0.0) for run in each.of(name, "T")]
            for each in (ours, theirs)
        )
        assert [run[:4] for run in one] == [run[:4] for run in two]
        for a, b in zip(one, two, strict=True):
            within(abs(a.test / b.test - 1), 1e-3)


@pytest.mark.long
def test_a_run_is_that_of_the_trainer(flags, tmp_path):
    """Losses are those of the steps of ``train.main``, each rate compiled into its program."""
    args = compare._parser().parse_args([*flags, "--methods", LORA, f"--output={tmp_path}"])
    made = schema.make(schema.build(command_line.tree(args)))
    task, variant = made.config.tasks[0], made.variants[0]
    (found,) = loop.read(made).values()
    config = made.run(variant, task)
    base = trainer.load(config.model)
    with trainer.in_mesh(base):
        trained = trainer.Trainer(base, config, found, variant.name, "T")
        ours = {(rate, n): trained(rate, 0, n).test for rate in (1e-2, 1e-1) for n in (2, 4)}
        assert len({*ours.values()}) == 4
        for (rate, steps), test in ours.items():
            assert test == pytest.approx(reference(base, config, found, rate, steps), rel=1e-3)
        assert trained(1e-2, 0, 4).test == ours[1e-2, 4]


def reference(base, config, found, rate, steps):
    run = trainer.make_run(base, config, 0)
    warmup = max(1, round(config.optim.warmup_steps * steps / config.loop.steps))
    optim = dataclasses.replace(config.optim, learning_rate=rate, warmup_steps=warmup)
    run = run._replace(config=dataclasses.replace(config, optim=optim))
    state, optimizer = runs.init_train_state(run, steps)
    step = make_train_step(run.model, run.adapter, optimizer, run.mesh, run.params, state)
    stream = data.DataIterator(found.train, config.loop.batch_size, 0, config.data)
    for _ in range(steps):
        state, _ = step(state, run.params, run.frozen, to_device(next(stream), run))
    evaluate = make_eval_step(run.model, run.adapter, run.mesh, run.params)
    return held_out_loss(run, evaluate, state.d, found.test)
