"""Two processes of four devices train like one of eight, and go on after one of them was killed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from train.config import parse
from train.export import require_possible
from train.training import distributed
from train.training import run as runs
from train.training.checkpoint import Checkpoints
from train.training.workdir import saved_config

STEPS, STOP, EVERY = 16, 11, 4


@pytest.fixture(scope="module")
def command(config_file, fields, records_path):
    """The arguments of a run over 8 devices."""
    fields = {
        **fields,
        "loop": {
            "batch_size": 8,
            "steps": STEPS,
            "eval_every": 8,
            "checkpoint_every": EVERY,
            "log_every": 1,
        },
        "evaluate": {"path": str(records_path), "limit": 3, "batch_size": 8},
        "decoding": {"max_new_tokens": 3},
    }
    return [f"--config={config_file(fields)}", "--config.mesh=data=2,fsdp=4"]


def start(arguments, devices, stop=()):
    """A process of ``train.main``; the signal ``stop[0]`` comes before step ``stop[1]``."""
    program = [str(Path(__file__).parent / "run_until.py"), *stop] if stop else ["-m", "train.main"]
    flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[3],
    )


def start_two(arguments, stop=(), others=()):
    """Two processes that know each other; the second stops, or has other arguments too."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = [*arguments, f"--coordinator=localhost:{port}", "--num_processes=2"]
    return [
        start([*shared, "--process_id=0"], 4),
        start([*shared, "--process_id=1", *others], 4, stop),
    ]


def finish(*processes):
    """Their exit statuses and what they printed; none is left when one takes too long."""
    try:
        texts = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], texts


@pytest.fixture(scope="module")
def one(command, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one") / "run"
    codes, texts = finish(start([*command, f"--workdir={workdir}"], 8))
    assert codes == [0], texts
    return workdir


@pytest.fixture(scope="module")
def two(command, tmp_path_factory):
    """A run of two processes that was begun again after the second was killed."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    arguments = [*command, f"--workdir={workdir}"]
    first, second = start_two(arguments, ("SIGKILL", str(STOP)))
    _, text = finish(second)
    assert second.returncode == -signal.SIGKILL, text
    first.kill()  # as a launcher does; by itself it waits for the heartbeats that do not come
    first.communicate()
    with Checkpoints(workdir) as checkpoints:
        assert checkpoints.latest == STOP // EVERY * EVERY

    codes, texts = finish(*start_two(arguments))
    assert codes == [0, 0], texts
    assert f"resumed at step {STOP // EVERY * EVERY} of {STEPS}" in texts[0]
    assert "held-out loss" in texts[0]
    assert "held-out loss" not in texts[1]  # the first alone prints
    return workdir


def losses(workdir):
    """By step and name; the last where a step was taken twice."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    names = ("loss", "held_out_loss")
    return {(line["step"], name): line[name] for line in lines for name in names if name in line}


@pytest.mark.long
def test_two_processes_have_the_loss_curve_of_one(one, two):
    expected, found = losses(one), losses(two)
    assert len(expected) == STEPS + 2
    assert found.keys() == expected.keys()
    values = [np.array([each[key] for key in expected]) for each in (found, expected)]
    np.testing.assert_allclose(*values, rtol=1e-5)
    assert abs(values[0][5] / values[1][6] - 1) > 1e-4  # neighbours in the curve differ


@pytest.mark.long
def test_two_processes_end_with_the_d_of_one(one, two):
    config = parse(saved_config(one, mesh="data=1"))
    run = runs.build(config)
    (step, expected), (other, found) = (runs.restore_best(run, workdir) for workdir in (one, two))
    assert step == other
    start = runs.init_d(run)
    for a, b, c in zip(*map(jax.tree.leaves, (found, expected, start)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
        assert np.abs(a - c).max() > 1e-2


@pytest.mark.long
def test_two_processes_write_one_of_each_file(one, two):
    def files(workdir):
        kept = (path for path in workdir.rglob("*") if "checkpoints" not in path.parts)
        names = (path.relative_to(workdir) for path in kept if path.is_file())
        return sorted(str(name) for name in names if "tfevents" not in name.name)

    assert files(two) == files(one)
    answers = [
        (workdir / "evaluation" / "commonsense" / "answers.jsonl").read_text()
        for workdir in (one, two)
    ]
    assert answers[0] == answers[1]
    assert len(answers[0].splitlines()) == 3
    with Checkpoints(two) as checkpoints:
        assert checkpoints.latest == STEPS


@pytest.mark.long
def test_processes_with_different_settings_are_refused(command, tmp_path):
    arguments = [*command, f"--workdir={tmp_path / 'run'}"]
    other = "--config.optim.learning_rate=1e-3"
    codes, texts = finish(*start_two(arguments, others=[other]))
    assert codes == [2, 2]
    for text in texts:
        assert "error: the processes were started with different settings (process 0: " in text
    assert "here settings.optim.learning_rate: 0.03 -> 0.001" in texts[1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_ID": "7"}, False),
        ({"SLURM_STEP_NUM_TASKS": "16"}, True),
        ({"SLURM_NTASKS": "16"}, False),  # of the batch script, which srun has not started
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"JOB_COMPLETION_INDEX": "0"}, True),
        ({"JAX_COORDINATOR_ADDRESS": "node1:1234"}, True),
    ],
)
def test_launchers_are_known_by_their_variables(environment, expected):
    assert distributed.launched(environment) is expected


@pytest.mark.parametrize("given", [("localhost:1", None, 0), (None, 2, None), (None, None, 0)])
def test_flags_that_are_given_in_part_are_refused(given):
    with pytest.raises(ValueError, match="--coordinator, --num_processes and --process_id are"):
        distributed.start(*given)


def test_one_process_needs_no_others():
    assert distributed.is_main_process()
    assert distributed.on_main_process(lambda: 3) == 3
    distributed.require_same({"a": 1})
    assert [distributed.stopping(5, caught) for caught in (True, False)] == [True, False]


def test_several_processes_are_to_export_afterwards(tiny_config, monkeypatch):
    tiny_config.export = ("adapter",)
    require_possible(parse(tiny_config))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"config.export \('adapter',\) with 2 processes"):
        require_possible(parse(tiny_config))
