"""Faults outside the loop: of the whole command ``train.main``, its files, and two runs at once."""

import contextlib
import errno
import io
import json
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from tera_jax import atomic, disk, load_adapter
from tera_jax.llama import load_pretrained
from tests.faults.faults import before_step, refused, sigterm
from tests.faults.scene import EXPORTS, STEPS, Scene, child_process, command, require_equal
from train.training import run as runs
from train.training.stops import Stopped


def disk_full_at_the_start(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """No file can grow beyond a random length, from the start of the command on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    stopped = []
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (rng.choice([0, 20, 500, 1500, 3000]), hard))
        said = io.StringIO()  # what is printed may lie elsewhere
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            command(scene.directory, workdir)
    except Stopped as error:
        stopped.append(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stopped, "the command went on without room"
    assert stopped[0].code == 74
    assert "the disk is full" in stopped[0].message


def no_room_for_a_file(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """The disk is full as any one of the files of a whole run is flushed to it."""
    left, sync = [rng.randrange(160)], atomic.sync

    def flush(path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        sync(path)

    stopped = []
    with mock.patch.object(atomic, "sync", flush), mock.patch.object(disk, "sync", flush):
        try:
            command(scene.directory, workdir, export=EXPORTS)
        except Stopped as error:
            stopped.append(error.code)
    assert stopped == [74], f"{left[0]} files more would have been flushed"
    command(scene.directory, workdir, export=EXPORTS)
    _require_exports(scene, workdir)


def two_runs_at_once(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """A second run under the same directory is refused; the first is killed and goes on at once."""
    with child_process(scene, workdir) as child:
        _wait(child, lambda: (workdir / "metrics.jsonl").is_file())
        time.sleep(rng.uniform(0, 0.5))
        refused(lambda: scene.fit(workdir), f"in use by process {child.pid} on ")
        child.kill()
    assert child.returncode == -signal.SIGKILL, "the run had ended by itself"


def killed_export(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """``kill -9`` while a finished run is exported; the same command exports all of it."""
    scene.end(workdir)
    with child_process(scene, workdir, exports=True) as child:
        _wait(child, lambda: any(workdir.glob(".*.partial")) or (workdir / "adapter").exists())
        time.sleep(rng.uniform(0, 1.0))
        child.kill()
    command(scene.directory, workdir, export=EXPORTS)
    _require_exports(scene, workdir)


def _require_exports(scene: Scene, workdir: Path) -> None:
    """All exports are those of the best step, and no part of another is left."""
    run = runs.build(scene.config)
    _, best = runs.restore_best(run, workdir)
    _, found = load_adapter(workdir / "adapter", run.params)
    require_equal(jax.device_get(found["d"]), jax.device_get(best))
    _, params = load_pretrained(workdir / "hf")
    require_equal(jax.device_get(params), jax.device_get(runs.merged(run, best)))
    partial = [name for name in os.listdir(workdir) if "partial" in name]
    assert not partial, f"{partial} is left"


def torn_line(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """The last line of the log was cut off, or others of steps that are taken again follow it."""
    sigterm(scene, workdir, rng)
    file = workdir / "metrics.jsonl"
    content = file.read_bytes()
    lines = content.splitlines(keepends=True)
    more = b"".join(rng.choice(lines) for _ in range(rng.randrange(3))) + lines[-1]
    file.write_bytes(content + more[: rng.randrange(len(more))])
    scene.fit(workdir)
    found = [json.loads(line, parse_constant=_refuse) for line in file.read_text().splitlines()]
    assert [one["step"] for one in found if "loss" in one] == list(range(1, STEPS + 1))
    assert [one["step"] for one in found if "held_out_loss" in one] == [STEPS // 2, STEPS]


def changed_data(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """One word of the records is another when the command is started again."""
    stop = before_step(rng.randrange(1, STEPS), lambda: os.kill(os.getpid(), signal.SIGTERM))
    with contextlib.suppress(Stopped), stop:
        command(scene.directory, workdir)
    records = Path(scene.config.data.path)
    whole = records.read_text()
    rows = json.loads(whole)
    row = rng.choice(rows)
    key = rng.choice(["instruction", "output"])
    row[key] = row[key] + " again"
    try:
        records.write_text(json.dumps(rows))
        refused(lambda: command(scene.directory, workdir), "records of identity")
    finally:
        records.write_text(whole)


def changed_base(scene: Scene, workdir: Path, rng: random.Random) -> None:
    """A float32 weight of the base is another below the precision of bfloat16."""
    sigterm(scene, workdir, rng)
    shard = Path(scene.config.model.path) / "model.safetensors"
    whole = shard.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    flipped = bytearray(whole)
    flipped[start + 4 * rng.randrange((len(whole) - start) // 4)] ^= 1 << rng.randrange(8)
    try:
        shard.write_bytes(flipped)
        refused(lambda: scene.fit(workdir), "load that base again")
    finally:
        shard.write_bytes(whole)


def _wait(child: "subprocess.Popen[bytes]", there: Callable[[], bool]) -> None:
    while child.poll() is None and not there():
        time.sleep(0.01)


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} in metrics.jsonl")
