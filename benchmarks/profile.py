"""Where a GPU's time goes: kernels by name and by kind, from JAX's profiler."""

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax

KINDS = {
    "matrix products": r"gemm|nvjet|cutlass|xmma|cublas|dot",
    "attention": r"fmha|flash|cudnn|sdpa|attention",
    "copies": r"memcpy|memset|copy|dynamic_update|dynamic_slice|transpose|concatenate|slice",
    "top-k and sorts": r"top_?k|sort|select_k|radix",
    "communication": r"nccl|all_reduce|all_gather|reduce_scatter",
}
"""The first that is found in a kernel's name; others are elementwise and reductions."""


class Kernel(NamedTuple):
    """A kernel, its calls, and the seconds of all of them."""

    name: str
    calls: int
    seconds: float

    @property
    def kind(self) -> str:
        """Of :data:`KINDS`, or ``elementwise``."""
        name = self.name.lower()
        return next((k for k, words in KINDS.items() if re.search(words, name)), "elementwise")


def profiled(function: Callable[[], Any]) -> list[Kernel]:
    """The device's kernels in a call, the longest first; none on a CPU."""
    with TemporaryDirectory() as directory:
        with jax.profiler.trace(directory, create_perfetto_trace=False):
            jax.block_until_ready(function())
        (file,) = Path(directory).rglob("*.trace.json.gz")
        return kernels(json.loads(gzip.decompress(file.read_bytes())))


def kernels(trace: Mapping[str, Any]) -> list[Kernel]:
    """Those of a trace in Chrome's format, by name."""
    names: dict[str, dict[Any, str]] = {"process_name": {}, "thread_name": {}}
    for event in trace["traceEvents"]:
        if event.get("ph") == "M" and event["name"] in names:
            key = (event["pid"], event.get("tid")) if "thread" in event["name"] else event["pid"]
            names[event["name"]][key] = event["args"]["name"]
    calls: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for event in trace["traceEvents"]:
        process = names["process_name"].get(event.get("pid"), "")
        thread = names["thread_name"].get((event.get("pid"), event.get("tid")), "")
        if event.get("ph") == "X" and "/device:" in process and "Stream" in thread:
            calls[event["name"]] += 1
            seconds[event["name"]] += event["dur"] * 1e-6
    found = [Kernel(name, calls[name], seconds[name]) for name in calls]
    return sorted(found, key=lambda kernel: -kernel.seconds)


def report(found: list[Kernel], most: int = 20) -> Iterator[str]:
    """Lines: milliseconds of each kind, then of the longest kernels."""
    total = sum(kernel.seconds for kernel in found) or 1.0
    kinds: dict[str, float] = defaultdict(float)
    for kernel in found:
        kinds[kernel.kind] += kernel.seconds
    for kind, seconds in sorted(kinds.items(), key=lambda item: -item[1]):
        yield f"{seconds * 1e3:9.2f} ms {seconds / total:6.1%}  {kind}"
    for kernel in found[:most]:
        yield f"{kernel.seconds * 1e3:9.2f} ms {kernel.calls:6d} x  {kernel.name[:110]}"
