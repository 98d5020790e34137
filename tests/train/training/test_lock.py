"""One run a directory."""

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tera_jax import locks
from train.training import lock

CHILD = """
import importlib.util, os, pathlib, sys, time
# The lock alone, without the imports of its room.
spec = importlib.util.spec_from_file_location("lock", "train/training/lock.py")
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
with lock.held(pathlib.Path(sys.argv[1])):
    if len(sys.argv) > 2:
        reads, writes = os.pipe()
        if os.fork() == 0:
            os.write(writes, b"x")  # it has let go of the lock
            time.sleep(60)
        os.read(reads, 1)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other():
    """Start another process that holds a directory."""
    started = []

    def start(workdir, *arguments):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(workdir), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
            start_new_session=True,
        )
        started.append(child)
        assert child.stdout.readline() == "held\n"
        return child

    yield start
    for child in started:
        with contextlib.suppress(ProcessLookupError):  # all of its group have ended
            os.killpg(child.pid, 9)
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize("arguments", [(), ("with a forked child",)])
def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path, other, arguments):
    child = other(tmp_path / "run", *arguments)
    message = f"in use by process {child.pid} on {socket.gethostname()}; wait until that run ends"
    with pytest.raises(FileExistsError, match=message), lock.held(tmp_path / "run"):
        pass
    child.kill()
    child.wait()
    with lock.held(tmp_path / "run"):
        pass


def test_it_is_free_after_a_run_and_after_an_error(tmp_path):
    with lock.held(tmp_path / "new" / "run"):
        pass
    with contextlib.suppress(KeyError), lock.held(tmp_path / "new" / "run"):
        with pytest.raises(FileExistsError, match=f"process {os.getpid()}"):
            lock.held(tmp_path / "new" / "run").__enter__()
        raise KeyError
    with lock.held(tmp_path / "new" / "run"):
        pass


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_directory_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.os, "open", refuse)
    message = rf"cannot be written to \({os.strerror(number)}\); choose another --workdir"
    with pytest.raises(ValueError, match=message), lock.held(tmp_path):
        pass


def test_a_directory_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="cannot be written to"), lock.held(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to"), lock.held(tmp_path / "file"):
        pass


@pytest.fixture
def without_locks(monkeypatch):
    """A file system that has none, and a clock that is 200 times faster."""
    monkeypatch.setattr(locks, "try_lock", lambda _: None)
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "SILENCE", 0.3)


def write(workdir, host, process, beats=0):
    (workdir / "lock").write_text(json.dumps([host, process, beats]))


def test_without_locks_a_living_run_on_another_host_is_refused(
    tmp_path, without_locks, monkeypatch
):
    monkeypatch.setattr(lock, "SILENCE", 60.0)  # one sign of life is enough, on a slow machine too
    with lock.held(tmp_path):
        _, _, first = json.loads((tmp_path / "lock").read_text())
        end = time.monotonic() + 30
        while json.loads((tmp_path / "lock").read_text())[2] <= first:
            assert time.monotonic() < end
            time.sleep(0.01)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lock.socket, "gethostname", lambda: "elsewhere")
            with pytest.raises(FileExistsError, match="in use by process"), lock.held(tmp_path):
                pass


def test_without_locks_a_silent_run_gives_way_after_the_timeout(tmp_path, without_locks):
    write(tmp_path, "elsewhere", 7)
    start = time.monotonic()
    with lock.held(tmp_path):
        assert time.monotonic() - start >= lock.SILENCE


def test_without_locks_a_dead_process_of_this_host_gives_way_at_once(
    tmp_path, without_locks, monkeypatch
):
    monkeypatch.setattr(lock, "SILENCE", 60.0)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write(tmp_path, socket.gethostname(), gone.pid)
    start = time.monotonic()
    with lock.held(tmp_path):
        assert time.monotonic() - start < lock.SILENCE


def test_the_stated_times_are_the_defaults():
    assert (lock.BEAT, lock.SILENCE) == (10, 60)
