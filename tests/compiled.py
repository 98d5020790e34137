"""Compiled programs of the tests: each compiled once for all workers, and let go in time."""

import os
import threading
from pathlib import Path

import jax
from jax._src import lru_cache
from jax._src.interpreters import mlir

MANY_MAPS = 20_000
"""Memory maps of a process above which it lets its programs go. Linux gives a process 65,530, LLVM
takes several for each program, and a compilation that gets none ends the process."""

_OF_THREAD = threading.local()
"""Has the MLIR context of its thread, as ``context``."""


def keep_all() -> None:
    """Let the cache of compiled programs take small ones too, and each file appear whole."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    lru_cache.LRUCache.put = _put_whole


def lower_in_one_context() -> None:
    """Lower the programs of a thread in one MLIR context: JAX makes one for each, in 10 ms."""
    make = mlir.make_ir_context

    def context() -> mlir.ir.Context:
        if not hasattr(_OF_THREAD, "context"):
            _OF_THREAD.context = make()
        return _OF_THREAD.context

    mlir.make_ir_context = context


def let_go() -> None:
    """Forget the context, which keeps all constants, and the compiled programs if many."""
    vars(_OF_THREAD).clear()
    if _maps() > MANY_MAPS:
        jax.clear_caches()


def _put_whole(cache: lru_cache.LRUCache, key: str, value: bytes) -> None:
    """Replace JAX's way to write an entry, which another process can read in its middle."""
    path = Path(cache.path) / f"{key}-cache"
    if not path.exists():
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_bytes(value)
        part.replace(path)


def _maps() -> int:
    """Memory maps of this process; 0 where the system does not say."""
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0
