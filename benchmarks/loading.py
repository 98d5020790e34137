r"""Host memory and time of loading a checkpoint of a model's shapes.

    python -m benchmarks.loading --model=llama-2-7b --directory=/tmp/synthetic

Writes a sharded Hugging Face checkpoint of made-up weights into ``--directory``, unless one is
there, and loads it in bfloat16 and as nf4. Memory is the resident set of this process, mapped files
included: its highest while loading, less what it was before. On a CPU, where the arrays themselves
lie in host memory, they are taken off.
"""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.steps import TINY
from tera_jax.llama import Llama, LlamaConfig, load_pretrained, save_pretrained
from tera_jax.llama.checkpoint.weights import abstract_params
from tera_jax.quantize import BLOCK
from train import command
from train.params.shapes import MODELS


def write(directory: Path, shape: dict[str, Any], shard_bytes: int) -> None:
    """A checkpoint in bfloat16 whose weights repeat a few random numbers."""
    model = Llama(LlamaConfig.from_hf(shape), dtype=jnp.bfloat16)
    few = np.random.default_rng(0).normal(scale=0.02, size=4099).astype(jnp.bfloat16)
    params = jax.tree.map(lambda leaf: np.resize(few, leaf.shape), abstract_params(model))
    save_pretrained(model, params, directory, max_shard_bytes=shard_bytes)


def resident() -> int:
    """Bytes of this process's resident set."""
    found = re.search(r"VmRSS:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


@contextmanager
def highest() -> Iterator[list[int]]:
    """A list whose only entry becomes the largest resident set from here to the end."""
    peak, done = [resident()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def main() -> None:
    """Write, load, print."""
    parser = command.parser(main)
    parser.add_argument("--model", choices=[*MODELS, "tiny"], default="llama-2-7b")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--shard-bytes", type=int, default=5 * 10**9, help="of a file, at most")
    parser.add_argument("--kinds", nargs="+", default=["none", "nf4"], help="of quantisation")
    parser.add_argument("--block", type=int, default=BLOCK, help="of a quantised base")
    args = parser.parse_args()
    if not args.directory.exists():
        shape = TINY if args.model == "tiny" else MODELS[args.model]
        write(args.directory, shape, args.shard_bytes)
    sizes = [file.stat().st_size for file in args.directory.glob("*.safetensors")]
    print(f"{len(sizes)} files of {sum(sizes):,} bytes, the largest {max(sizes):,}")
    on_host = jax.default_backend() == "cpu"
    jnp.zeros(8).block_until_ready()  # what a backend takes for itself
    print("| quantize | seconds | arrays | host memory above | of the largest file |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for kind in args.kinds:
        before, start = resident(), time.perf_counter()
        with highest() as peak:
            _, params = load_pretrained(
                args.directory, jnp.bfloat16, quantize=kind, block=args.block
            )
            jax.block_until_ready(params)
        seconds = time.perf_counter() - start
        arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        above = peak[0] - before - (arrays if on_host else 0)
        share = above / max(sizes)
        print(f"| {kind} | {seconds:.1f} | {arrays:,} | {above:,} | {share:.2f} |", flush=True)
        del params


if __name__ == "__main__":
    command.run(main)
