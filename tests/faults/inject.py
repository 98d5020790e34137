r"""Faults, each at random moments of a small run, which is then started again and compared.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.faults.inject --times=20

A run counts as lost unless it ends with the bits of the run that nothing disturbed, or on another
mesh with its numbers to rounding. Each fault must also stop the run as the docs say, and be named.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from absl import logging

from tera_jax import load_adapter
from tera_jax.io import adapter_files
from tests import parts
from train import data
from train.config import Config, MeshConfig, default, parse
from train.data import records
from train.training import checkpoint, loop
from train.training import run as runs
from train.training.checkpoint import Checkpoints
from train.training.stops import Stopped

STEPS, EVERY, BATCH = 24, 4, 8
OTHER = MeshConfig(data=2, fsdp=2, tensor=2)


class Crash(BaseException):
    """The process is gone; nothing may catch this."""


def fit(config: Config, workdir: Path) -> None:
    """Start a run, or start it again."""
    run = runs.build(config, workdir)
    checkpoint.claim(workdir, config)
    train, valid = (
        data.tokenize(part, run.tokenizer, config.data) for part in records.split(config.data)
    )
    with jax.set_mesh(run.mesh):
        loop.fit(run, workdir, train, valid)


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
            like, _ = runs.start(run, STEPS)
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


class Fault(NamedTuple):
    """``strike`` disturbs a run in a directory; ``exact`` says how the end is compared."""

    strike: Callable[[Scene, Path, random.Random], None]
    exact: bool = True


@contextlib.contextmanager
def before_step(step: int, act: Callable[[], Any]) -> Iterator[None]:
    """``act`` as the batch of a step is asked for."""
    feed = data.Stream.__next__

    def fed(stream: data.Stream) -> Any:
        if stream.position == (step - 1) * BATCH:
            act()
        return feed(stream)

    with mock.patch.object(data.Stream, "__next__", fed):
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
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.inject", f"--child={workdir}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, _SCENE: str(scene.directory)},
    ) as child:
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
        _refused(lambda: scene.fit(workdir), "load that base again")
        shard.write_bytes(whole[: rng.randrange(start, len(whole))])
        _refused(lambda: scene.fit(workdir), "")
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
    _equal(found["d"], scene.expected)  # a bit of the file that means nothing


def _refused(call: Callable[[], Any], message: str) -> None:
    said = []
    try:
        call()
    except ValueError as error:
        said.append(str(error))
    assert said, "a damaged file was taken as it is"
    assert message in said[0]


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


FAULTS = {
    "SIGTERM": Fault(sigterm),
    "SIGINT": Fault(sigint),
    "kill -9": Fault(killed),
    "hours are over": Fault(hours_are_over),
    "end while a checkpoint is written": Fault(crash_in_a_checkpoint),
    "damaged checkpoint": Fault(damaged_checkpoint),
    "damaged shard of the base": Fault(damaged_shard),
    "damaged adapter": Fault(damaged_adapter),
    "disk full": Fault(disk_full),
    "loss that is no number": Fault(not_finite),
    "another mesh": Fault(another_mesh, exact=False),
}


def _equal(found: Any, expected: Any, exact: bool = True) -> None:
    bound = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-3, "atol": 1e-4}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **bound), found, expected)


def inject(scene: Scene, name: str, times: int, seed: int = 0) -> int:
    """Strike ``times`` with a fault; how many runs were lost."""
    fault, lost = FAULTS[name], 0
    for time_ in range(times):
        workdir = scene.directory / f"{name} {time_}".replace(" ", "_")
        try:
            fault.strike(scene, workdir, random.Random(f"{seed} {name} {time_}"))
            _equal(scene.end(workdir), scene.expected, fault.exact)
        except Exception as error:
            lost += 1
            print(f"LOST: {name}, time {time_}: {type(error).__name__}: {error}", flush=True)
        shutil.rmtree(workdir, ignore_errors=True)
    return lost


_SCENE = "TERA_JAX_SCENE"


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
    feed = data.Stream.__next__

    def slowly(stream: data.Stream) -> Any:
        time.sleep(0.05)
        return feed(stream)

    with mock.patch.object(data.Stream, "__next__", slowly):
        fit(config, workdir)


def main() -> None:
    """Strike, and print how often, and how many runs were lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.inject", description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--child", type=Path, help="what the script starts itself with")
    args = parser.parse_args()
    if args.child:
        child(Path(os.environ[_SCENE]), args.child)
        return
    os.environ["TQDM_DISABLE"] = "1"
    logging.set_verbosity(logging.ERROR)
    with TemporaryDirectory() as place:
        directory = Path(place)
        jax.config.update("jax_compilation_cache_dir", str(directory / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        model = parts.tiny_llama(directory / "model")
        examples = parts.records(directory / "records.json")
        scene = Scene(make_config(directory, model, examples), directory)
        faults = losses = 0
        for name in args.only:
            start = time.monotonic()
            lost = inject(scene, name, args.times, args.seed)
            seconds = time.monotonic() - start
            faults, losses = faults + args.times, losses + lost
            print(f"{name:<36}{args.times:>4} times, lost {lost} ({seconds:.0f} s)", flush=True)
    print(f"{faults} faults, losses: {losses}")
    sys.exit(bool(losses))


if __name__ == "__main__":
    main()
