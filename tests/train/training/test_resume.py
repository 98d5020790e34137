"""A run that is stopped and started again ends with the bits of one that was not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from train.training.checkpoint import Checkpoints

# Quick and alike: tests/faults, of which "kill -9" and "SIGTERM" compare the bits too.
pytestmark = pytest.mark.long
STEPS, STOP, EVERY = 80, 37, 10


@pytest.fixture(scope="module")
def train(config_file, fields):
    """Run train.main in a process of its own, with one CPU device, to the end or to a signal."""
    fields = {
        **fields,
        "loop": {
            "batch_size": 4,
            "steps": STEPS,
            "eval_every": 40,
            "checkpoint_every": EVERY,
        },
        "export": ["adapter"],
    }
    config = config_file(fields)

    def run(workdir, stop=()):
        program = [str(Path(__file__).parent / "run_until.py"), *stop] if stop else ["-m"]
        program += [] if stop else ["train.main"]
        environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
        arguments = [f"--config={config}", f"--workdir={workdir}"]
        return subprocess.run(
            [sys.executable, *program, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[3],
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def uninterrupted(train, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    done = train(workdir)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_stopped_run_goes_on_to_the_same_bits(train, uninterrupted, tmp_path, name):
    stopped = train(tmp_path / "run", [name, str(STOP)])
    number = signal.Signals[name]
    if name == "SIGKILL":
        assert stopped.returncode == -number
        saved = STOP // EVERY * EVERY
    else:
        assert stopped.returncode == 75, stopped.stderr
        assert f"{name} at step {STOP}: the state is saved" in stopped.stdout
        saved = STOP
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.latest == saved

    resumed = train(tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed at step {saved} of {STEPS}" in resumed.stdout + resumed.stderr
    with Checkpoints(tmp_path / "run") as a, Checkpoints(uninterrupted) as b:
        assert (a.latest, a.best) == (b.latest, b.best)
    found, expected = (
        load_file(path / "adapter" / "adapter.safetensors")
        for path in (tmp_path / "run", uninterrupted)
    )
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].tobytes() == value.tobytes(), key
        assert value.std() > 0  # trained: neither all ones nor all zeros


def test_a_finished_run_is_reported_again_and_not_trained(train, uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_text()
    again = train(uninterrupted)
    assert again.returncode == 0, again.stderr
    assert "held-out loss" in again.stdout
    assert (uninterrupted / "metrics.jsonl").read_text() == before


def test_each_step_is_logged_and_the_loss_fell(uninterrupted):
    text = (uninterrupted / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    held_out = {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}
    assert list(losses) == list(range(10, STEPS + 1, 10))
    assert list(held_out) == [40, STEPS]
    assert losses[STEPS] < losses[10]
    assert list((uninterrupted / "tensorboard").glob("events.out.tfevents.*"))
