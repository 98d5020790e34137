"""Compiled programs of the tests: each compiled once for all workers, and let go in time."""

import os
from pathlib import Path

import jax
from jax._src import lru_cache

MANY_MAPS = 20_000
"""Memory maps of a process above which it lets its programs go. Linux gives a process 65,530, LLVM
takes several for each program, and a compilation that gets none ends the process."""


def keep_all() -> None:
    """Let the cache of compiled programs take small ones too, and each file appear whole."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    lru_cache.LRUCache.put = _put_whole


def let_go() -> None:
    """Forget the compiled programs of this process when it has many."""
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
