"""``metrics.jsonl`` has whole lines of JSON, each step once."""

import json
import math

import pytest

from train.training import loggers
from train.training.metrics import Log


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def started(workdir, done):
    return Log(loggers.start(("jsonl", "tensorboard"), workdir, done, {}), done, 9, 1)


def write(workdir, done, steps):
    with started(workdir, done) as log:
        for step in steps:
            log.event(step, loss=float(step))


TORN = ['{"step": 3, "loss": 3', '{"step": 3', "{", '{"step": 3, "loss": 3.0}', "\x00\x00"]


@pytest.mark.parametrize("torn", TORN)
def test_a_last_line_that_was_cut_off_is_taken_out(tmp_path, torn):
    write(tmp_path, 0, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    write(tmp_path, 2, [3, 4])
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_steps_that_are_taken_again_stand_once(tmp_path):
    write(tmp_path, 0, [1, 2, 3, 4, 5])
    with started(tmp_path, 2) as log:
        log.event(3, loss=30.0)
        log.event(3, held_out_loss=31.0)
    found = [(line["step"], line.get("loss")) for line in lines(tmp_path)]
    assert found == [(1, 1.0), (2, 2.0), (3, 30.0), (3, None)]


def test_lines_that_an_older_version_wrote_twice_stand_once(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 1.0}\n{"step": 1, "loss": 2.0}\n')
    write(tmp_path, 1, [2])
    assert [line["loss"] for line in lines(tmp_path)] == [2.0, 2.0]


def test_a_whole_file_stays_as_it_is(tmp_path):
    write(tmp_path, 0, [1, 2])
    before = (tmp_path / "metrics.jsonl").stat()
    write(tmp_path, 2, [])
    assert (tmp_path / "metrics.jsonl").stat().st_ino == before.st_ino


def test_nan_is_not_written(tmp_path):
    with started(tmp_path, 0) as log, pytest.raises(ValueError, match="JSON"):
        log.event(1, loss=math.nan)
    assert lines(tmp_path) == []
