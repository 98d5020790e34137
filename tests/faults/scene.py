"""The small run that is disturbed, and what it ends with when nothing disturbs it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import numpy as np

from train import data, main
from train.config import Config, default, parse
from train.data import records
from train.training import lock, loop
from train.training import run as runs
from train.training.checkpoint import Checkpoints
from train.training.stops import Stopped
from train.training.workdir import init_workdir

STEPS, EVERY, BATCH = 24, 4, 8
EXPORTS = ("adapter", "hf")
SCENE = "TERA_JAX_SCENE"
"""Names the directory of the scene to :func:`child`."""


def fit(config: Config, workdir: Path) -> None:
    """Start a run, or start it again."""
    with lock.held(workdir):
        run = runs.build(config, workdir)
        init_workdir(workdir, config)
        train, valid = (
            data.tokenize(part, run.tokenizer, config.data) for part in records.split(config.data)
        )
        with jax.set_mesh(run.mesh):
            loop.fit(run, workdir, train, valid)


def command(directory: Path, workdir: Path, **changes: Any) -> None:
    """``train.main`` on the run that :func:`make_config` wrote down; sections are changed whole."""
    config = default("tera")
    config.update(json.loads((directory / "config.json").read_text()))
    config.update(changes)
    flags = {"_CONFIG": config, "_WORKDIR": str(workdir), "_PRINT_CONFIG": False}
    flags |= dict.fromkeys(("_COORDINATOR", "_NUM_PROCESSES", "_PROCESS_ID"))
    given = {name: SimpleNamespace(value=value) for name, value in flags.items()}
    with (
        mock.patch.multiple(main, **given),
        mock.patch.object(main.config_flags, "get_config_filename", return_value="scene.py"),
        mock.patch.object(main.flags, "FLAGS", {"config": None}),
    ):
        main.main([])


class Scene:
    """A small run: its parts, made once, and what it ends with when nothing disturbs it."""

    def __init__(self, config: Config, directory: Path) -> None:
        self.config, self.directory = config, directory
        self.expected = self.end(directory / "undisturbed")

    def fit(self, workdir: Path, config: Config | None = None) -> None:
        """Start the run in ``workdir``, or start it again."""
        fit(config or self.config, workdir)

    def end(self, workdir: Path, config: Config | None = None) -> Any:
        """Start it again until it has trained to its end; the last ``d``."""
        self.fit(workdir, config)
        run = runs.build(self.config, workdir)
        with Checkpoints(workdir) as checkpoints:
            assert checkpoints.whole == STEPS
            like, _ = runs.init_train_state(run, STEPS)
            state, _ = checkpoints.restore(STEPS, like, run.meta)
        return jax.device_get(state.d)

    def stopped_by(self, workdir: Path, status: int, config: Config | None = None) -> Stopped:
        """Start it; it must stop with this status."""
        stopped: list[Stopped] = []
        try:
            self.fit(workdir, config)
        except Stopped as error:
            stopped.append(error)
        assert stopped, f"the run went on, and should have stopped with {status}"
        assert stopped[0].code == status, stopped[0].message
        return stopped[0]


def make_config(directory: Path, model: Path, examples: Path) -> Config:
    """A run of ``STEPS`` steps; written down for :func:`child`."""
    config = default("tera")
    config.model.update(path=str(model), dtype="float32", remat="none")
    config.data.update(path=str(examples), validation_rows=16, max_prompt=40, max_response=8)
    config.method.num_modes = 2
    config.optim.update(learning_rate=3e-2, warmup_steps=5)
    config.loop.update(batch_size=BATCH, steps=STEPS, eval_every=STEPS // 2, log_every=1)
    config.loop.checkpoint_every = EVERY
    config.evaluate.batch_size = BATCH
    (directory / "config.json").write_text(json.dumps(config.to_dict()))
    return parse(config)


def child(directory: Path, workdir: Path) -> None:
    """The run in a process that is to be killed, slow enough to be killed in the middle."""
    config = parse(json.loads((directory / "config.json").read_text()))
    feed = data.DataIterator.__next__

    def slowly(stream: data.DataIterator) -> Any:
        time.sleep(0.05)
        return feed(stream)

    with mock.patch.object(data.DataIterator, "__next__", slowly):
        fit(config, workdir)


def require_equal(found: Any, expected: Any, exact: bool = True) -> None:
    bound = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-3, "atol": 1e-4}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **bound), found, expected)


def child_process(scene: Scene, workdir: Path, exports: bool = False) -> "subprocess.Popen[bytes]":
    """:func:`child` of a scene, or with exports :func:`command`, in a process of its own."""
    arguments = [f"--child={workdir}"] + ["--exports"] * exports
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.inject", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, SCENE: str(scene.directory)},
    )
