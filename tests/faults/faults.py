"""The faults: each disturbs a run at a random moment, and holds what is said of it to the docs."""

import contextlib
import dataclasses
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tera_jax import load_adapter
from tera_jax.io import adapter_files
from tests.faults.scene import BATCH, EVERY, STEPS, Scene, child_process, require_equal
from train import data
from train.config import MeshConfig
from train.training import loop
from train.training import run as runs
from train.training.checkpoint import Checkpoints

OTHER = MeshConfig(data=2, fsdp=2, tensor=2)


class Crash(BaseException):
    """The process is gone; nothing may catch this."""


@contextlib.contextmanager
def before_step(step: int, act: Callable[[], Any]) -> Iterator[None]:
    """``act`` as the batch of a step is asked for."""
    feed = data.DataIterator.__next__

    def fed(stream: data.DataIterator) -> Any:
        if stream.position == (step - 1) * BATCH:
            act()
        return feed(stream)

    with mock.patch.object(data.DataIterator, "__next__", fed):
        yield


def _signal(scene: Scene, workdir: Path, rng: random.Random, number: int, status: int) -> None:
    with before_step(rng.randrange(1, STEPS), lambda: os.kill(os.getpid(), number)):
        assert "the state is saved" in scene.stopped_by(workdir, status).message


def sigterm(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """As a scheduler preempts a job."""
    _signal(scene, workdir, rng, signal.SIGTERM, scene.config.loop.requeue_status)


def sigint(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """Ctrl-C."""
    _signal(scene, workdir, rng, signal.SIGINT, 130)


def hours_are_over(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """The limit of ``max_hours``, by a clock that leaps at a random step."""
    limited = dataclasses.replace(scene.config.loop, max_hours=5.0)
    config = dataclasses.replace(scene.config, loop=limited)
    leap = [0.0]
    clock = time.monotonic

    def leaping() -> float:
        return clock() + leap[0]

    with (
        mock.patch.object(loop.time, "monotonic", leaping),
        before_step(rng.randrange(1, STEPS), lambda: leap.__setitem__(0, 6 * 3600.0)),
    ):
        scene.stopped_by(workdir, scene.config.loop.requeue_status, config)


def killed(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """``kill -9`` at any moment, in a process of its own."""
    with child_process(scene, workdir) as child:
        metrics = workdir / "metrics.jsonl"
        while child.poll() is None and not (metrics.is_file() and metrics.read_text()):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.5))
        child.kill()
    assert child.returncode == -signal.SIGKILL, "the run had ended by itself"


def crash_in_a_checkpoint(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """The process ends after a checkpoint's files were written and before their checksums."""
    left = [rng.randrange(STEPS // EVERY)]
    seal = Checkpoints._seal

    def crash(checkpoints: Checkpoints, step: int) -> None:
        if left[0] == 0:
            raise Crash
        left[0] -= 1
        seal(checkpoints, step)

    with mock.patch.object(Checkpoints, "_seal", crash), contextlib.suppress(Crash):
        scene.fit(workdir)


def damaged_checkpoint(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """A file of the last checkpoint is changed, cut or gone after the run was stopped."""
    sigterm(scene, workdir, rng)
    steps = sorted(map(int, os.listdir(workdir / "checkpoints")))
    place = workdir / "checkpoints" / str(steps[-1])
    _damage(rng.choice(sorted(path for path in place.rglob("*") if path.is_file())), rng)


def _damage(path: Path, rng: random.Random, may_go: bool = True) -> None:
    content = bytearray(path.read_bytes())
    how = rng.choice(["flip", "cut", "gone"] if may_go else ["flip", "cut"])
    if how == "gone" or not content:
        path.unlink()
        return
    place = rng.randrange(len(content))
    if how == "flip":
        content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    else:
        path.write_bytes(content[:place])


def damaged_shard(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """A weight of the base is another when the run is started again; it must be refused."""
    sigterm(scene, workdir, rng)
    shard = Path(scene.config.model.path) / "model.safetensors"
    whole = shard.read_bytes()
    try:
        flipped = bytearray(whole)
        # Behind the header, in the high byte of a float32: what rounding to bfloat16 keeps.
        start = 8 + int.from_bytes(whole[:8], "little")
        flipped[start + 4 * rng.randrange((len(whole) - start) // 4) + 3] ^= 1
        shard.write_bytes(flipped)
        refused(lambda: scene.fit(workdir), "load that base again")
        shard.write_bytes(whole[: rng.randrange(start, len(whole))])
        refused(lambda: scene.fit(workdir), "")
    finally:
        shard.write_bytes(whole)


def damaged_adapter(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """A byte of an exported adapter is another when it is loaded; it must be refused."""
    run = runs.build(scene.config)
    variables = run.variables(scene.expected)
    place = workdir.with_name(f"{workdir.name}-adapter")
    adapter_files.save_adapter(place, run.adapter, variables, "base")
    _damage(place / "adapter.safetensors", rng, may_go=False)
    try:
        _, found = load_adapter(place, run.params)
    except ValueError:
        return
    require_equal(found["d"], scene.expected)  # a bit of the file that means nothing


def refused(call: Callable[[], Any], message: str) -> None:
    """Raise ``AssertionError`` unless a call gives an error of the user with this message."""
    said = []
    try:
        call()
    except (ValueError, FileExistsError) as error:
        said.append(str(error))
    assert said, "what should be refused was taken as it is"
    assert message in said[0], said[0]


def disk_full(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """No file can grow from a random step on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(64), hard))

    try:
        with before_step(rng.randrange(1, STEPS), fill):
            stopped = scene.stopped_by(workdir, 74)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the disk is full" in stopped.message


def not_finite(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """A step's loss is no number."""
    step = rng.randrange(1, STEPS)
    place, now = loop.to_device, [False]

    def poisoned(batch: Any, run: Any) -> Any:
        if now[0]:
            now[0] = False
            batch = batch._replace(weight_BT=batch.weight_BT * np.float32("nan"))
        return place(batch, run)

    with (
        mock.patch.object(loop, "to_device", poisoned),
        before_step(step, lambda: now.__setitem__(0, True)),
        contextlib.suppress(FloatingPointError),
    ):
        scene.fit(workdir)
        raise AssertionError("the run went on without a number for its loss")
    found = json.loads((workdir / f"not_finite-{step}.json").read_text())
    assert len(found["examples"]) == BATCH
    assert found["d_norm"] > 0


def another_mesh(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """Preempted on one device, started again on eight, and once more on one."""
    sigterm(scene, workdir, rng)
    with Checkpoints(workdir) as checkpoints:
        done = checkpoints.whole or 0
    number = rng.randrange(done + 1, STEPS + 1)
    if number < STEPS:
        with before_step(number, lambda: os.kill(os.getpid(), signal.SIGTERM)):
            config = dataclasses.replace(scene.config, mesh=OTHER)
            scene.stopped_by(workdir, scene.config.loop.requeue_status, config)
