"""Several processes, on one host or many, that run one training together.

Each starts the same command. JAX shows each of them the devices of all; the mesh is over these.
What all compute is the same program; what is written beside checkpoints is written by the first.
"""

import builtins
import json
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from ..config import differences

# What says that a launcher started more than one process.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_PRESENT = ("JAX_COORDINATOR_ADDRESS", "JOB_COMPLETION_INDEX")

_T = TypeVar("_T")


def start(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes, if there are any, before anything else is asked of JAX.

    Without arguments they are found as JAX finds them in the environment of Slurm, Open MPI or a
    Kubernetes Job with an index (GKE).

    Args:
        coordinator: ``HOST:PORT`` of process 0.
        num_processes: how many there are.
        process_id: which of them this is, from 0.

    Raises:
        ValueError: when only some of the three are given.
    """
    given = (coordinator, num_processes, process_id)
    if any(value is not None for value in given):
        if None in given:
            raise ValueError(
                f"--coordinator, --num_processes and --process_id are {given}; give all three, or "
                "none where Slurm, Open MPI or Kubernetes started the processes"
            )
        # Of flags alone: the launcher's variables may speak of other processes.
        jax.distributed.initialize(*given, cluster_detection_method="deactivate")
    elif launched():
        jax.distributed.initialize()


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher's variables speak of more processes than this one."""
    several = any(int(environment.get(name) or 1) > 1 for name in _COUNTS)
    return several or any(name in environment for name in _PRESENT)


def is_main_process() -> bool:
    """Whether this is the process that prints and writes."""
    return jax.process_index() == 0


def log(text: str) -> None:
    """Print once, not once a process."""
    if is_main_process():
        print(text, flush=True)


def bar(shown: bool = True, **options: Any) -> tqdm:
    """A progress bar, on the first process; ``TQDM_DISABLE=1`` in the environment hides it."""
    if not (shown and is_main_process()):
        options["disable"] = True
    return tqdm(**options, dynamic_ncols=True)


def on_main_process(work: Callable[[], _T]) -> _T:
    """What ``work`` gives on the first process, on every process; it runs on the first alone.

    It travels as JSON. No process goes on before it is done. An error that it raises is raised on
    every process, with its message and, where it is one of Python's own, its type.
    """
    if jax.process_count() == 1:
        return work()
    if not is_main_process():
        sent = json.loads(_from_main_process(b""))
        if "error" in sent:
            kind, message = sent["error"]
            known = getattr(builtins, kind, RuntimeError)
            raise (known if issubclass(known, Exception) else RuntimeError)(message)
        return sent["value"]
    try:
        value = work()
        content = json.dumps({"value": value}).encode()
    except Exception as error:
        _from_main_process(json.dumps({"error": [type(error).__name__, str(error)]}).encode())
        raise
    _from_main_process(content)
    return value


def _from_main_process(content: bytes) -> bytes:
    """The bytes that the first process gives."""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    padded = np.zeros(length, np.uint8)
    if is_main_process():
        padded[:] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes()


def require_same(settings: Mapping[str, Any]) -> None:
    """Check that all processes were given the same, before long work.

    Raises:
        ValueError: on every process, when one differs. It names the processes by the hashes of
            their settings, and on those that differ from the first every key that does.
    """
    own = json.loads(json.dumps(settings))
    firsts = on_main_process(lambda: own)
    crc = zlib.crc32(json.dumps(own, sort_keys=True).encode())
    hashes = np.asarray(multihost_utils.process_allgather(np.uint32(crc))).reshape(-1).tolist()
    if len(set(hashes)) == 1:
        return
    table = ", ".join(f"process {index}: {value:08x}" for index, value in enumerate(hashes))
    rows = differences(firsts, own, "settings")
    raise ValueError(
        f"the processes were started with different settings ({table}); give each the same command "
        "and the same files" + "".join(f"; here {row}" for row in rows)
    )


def agreed(flag: bool) -> bool:
    """The first process's flag, on every process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.bool_(flag)))


def stopping(step: int, caught: bool) -> bool:
    """Whether to save and stop after ``step``, because of a signal.

    Several processes agree on a step that none of them is past, after a SIGTERM to any of them,
    which JAX then catches itself. Each must ask after every step.
    """
    if jax.process_count() == 1:
        return caught
    return multihost_utils.reached_preemption_sync_point(step)
