"""The file of results: its lines, and what a killed process leaves."""

import dataclasses
import json
import math
import os

import pytest

from train.config import OptimConfig
from train.studies import identity
from train.studies.results import Failure, Result, Results, rate_text


def result(variant="lora", rate=1e-2, seed=0, **fields):
    usual = {"validation": 1.0, "test": 2.0, "trained": 10, "seconds_per_step": 0.5}
    return Result(variant, "T", rate, seed, **{**usual, "device": "cpu", "steps": 4, **fields})


def test_what_is_appended_is_read_again(tmp_path):
    file = tmp_path / "r.jsonl"
    rows = [
        result(targets="q_proj+v_proj", peak_bytes=9),
        result(validation=math.inf, test=math.inf, note="the loss of step 2 is not finite"),
        Failure("hira", "T", "rank 99"),
    ]
    results = Results(file)
    for row in rows:
        results.append(row)
    again = Results(file)
    assert (again.runs, again.failures) == (rows[:2], rows[2:])
    assert again.of("lora", "T") == rows[:2]
    assert again.of("lora", "U") == []
    assert again.failure("hira", "T") == rows[2]
    assert again.failure("hira", "U") is None
    assert "Infinity" not in file.read_text()


def test_a_line_that_was_cut_off_is_left_out_and_the_next_begins_anew(tmp_path, capsys):
    file = tmp_path / "r.jsonl"
    results = Results(file)
    results.append(result(seed=0))
    results.append(result(seed=1))
    file.write_bytes(file.read_bytes()[:-5])
    cut = Results(file)
    assert [run.seed for run in cut.runs] == [0]
    cut.repair()
    assert "the last line was cut off" in capsys.readouterr().out
    cut.append(result(seed=2))
    assert [run.seed for run in Results(file).runs] == [0, 2]
    assert file.read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"variant": "lora"}', "line 2 lacks task"),
        ("[1]", "line 2 is not JSON"),
        ('{"variant": "a", "task": "b", "error": 3}', "line 2 sets error to 3, not a text"),
    ],
)
def test_a_whole_line_that_is_no_result_is_named(tmp_path, line, message):
    file = tmp_path / "r.jsonl"
    Results(file).append(result())
    with file.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        Results(file)


def test_a_full_disk_is_an_error_and_costs_the_line_alone(tmp_path, monkeypatch):
    file = tmp_path / "r.jsonl"
    results = Results(file)
    results.append(result(seed=0))
    write = os.write
    monkeypatch.setattr(os, "write", lambda where, line: write(where, line[:20]))
    with pytest.raises(OSError, match="No space left"):
        results.append(result(seed=1))
    monkeypatch.undo()
    again = Results(file)
    again.repair()
    again.append(result(seed=2))
    assert [run.seed for run in Results(file).runs] == [0, 2]


def test_failures_are_forgotten_and_runs_stay(tmp_path):
    results = Results(tmp_path / "r.jsonl")
    results.append(result())
    results.append(Failure("hira", "T", "rank 99"))
    results.forget_failures()
    again = Results(tmp_path / "r.jsonl")
    assert (len(again.runs), again.failures) == (1, [])


def test_a_rate_is_shown_with_the_digits_that_it_has():
    assert [*map(rate_text, (3e-4, 2.5e-4, 0.0, 10.0))] == ["3e-04", "0.00025", "0e+00", "1e+01"]


def test_lines_of_before_take_the_steps_that_are_given(tmp_path):
    file = tmp_path / "r.jsonl"
    old = result()._asdict()
    for name in ("steps", "targets", "peak_bytes", "note"):
        del old[name]
    base = {**old, "variant": "base", "learning_rate": 0.0}
    file.write_text("".join(json.dumps(line) + "\n" for line in (old, base)))
    assert [run.steps for run in Results(file, 300).runs] == [300, 0]


def test_a_study_of_an_older_version_goes_on_under_the_defaults_of_newer_fields(tmp_path):
    section = dataclasses.asdict(OptimConfig())
    newer = ("optimizer", "momentum", "ema_decay", "rate_factors")
    older = {name: value for name, value in section.items() if name not in newer}

    def study(optim):
        methods = {"lora": {"method": {"rank": 1}, "optim": optim, "loop": {"batch_size": 2}}}
        return {
            "version": 1, "command": "", "programs": {}, "model": "m", "base": "b",
            "settings": {"steps": 2}, "tasks": {}, "methods": methods, "baseline": None, "seeds": 1,
        }  # fmt: skip

    identity.write(tmp_path, study(older))
    given = json.loads(json.dumps(study(section)))
    assert identity.merged(tmp_path, given)["methods"] == given["methods"]
    with pytest.raises(FileExistsError, match=r"methods.lora.optim.optimizer: None -> 'lion'"):
        identity.merged(tmp_path, study({**given["methods"]["lora"]["optim"], "optimizer": "lion"}))
