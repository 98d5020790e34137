r"""Host memory and time from a file of records to a first training step, on a CPU.

    python -m benchmarks.data --records=1000000 --tokenizer=SmolLM2-135M-Instruct.gguf [--chat]

Writes records of about 200 bytes and 40 tokens, and a base of two small layers under the tokenizer;
then runs ``train.main`` for one step in a process of its own. Memory is the highest resident set
of that process, above the size of the file; the time is from its start to the held-out loss after
the first step, which is its second. The CPU time is that of the whole process. ``--chat`` writes
conversations of a turn each, and trains by ``configs/sft.py``. ``--streaming`` keeps neither
records nor tokens in memory; the highest resident set is printed in either case.

``--compare`` has no run: one process loads the records and iterates over an epoch of batches, a
second one streams them. Of both the resident set above that of the imports is printed, the mean
over the epoch and the highest, and the ratio of the two.
"""

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.loading import highest, resident
from tera_jax.llama import Llama, LlamaConfig, load_tokenizer, save_pretrained
from train import command
from train.config import DataConfig
from train.data import DataIterator, prepare

_TEXT = (
    "the sea and a man in it was not so far from us as we go up to an old red mill by day or two "
    "if you can see me at no time but on my way out of one big wet box he may be all we had set"
)
_ROWS = 32
_SHAPE = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


class Figures(NamedTuple):
    """Of one run."""

    file_mib: float
    peak_mib: float
    above_mib: float
    seconds: float
    cpu_seconds: float


def write_records(path: Path, count: int, chat: bool = False) -> None:
    """``count`` records, a line each; ``chat`` makes messages of them."""
    draw, known = random.Random(0), _TEXT.split()
    with path.open("w") as file:
        for _ in range(count):
            words = draw.choices(known, k=38)
            asked, answer = " ".join(words[:28]), " ".join(words[28:])
            record: dict[str, object] = {"instruction": asked, "input": "", "output": answer}
            if chat:
                turns = (
                    {"role": "user", "content": asked},
                    {"role": "assistant", "content": answer},
                )
                record = {"messages": turns}
            file.write(json.dumps(record) + "\n")


def write_base(path: Path, tokenizer: str) -> None:
    """A base of random weights."""
    loaded = load_tokenizer(tokenizer)
    model = Llama(LlamaConfig.from_hf({**_SHAPE, "vocab_size": len(loaded)}))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    save_pretrained(model, params, path, loaded)


def measure(
    directory: Path, count: int, tokenizer: str, chat: bool = False, streaming: bool = False
) -> Figures:
    """Write what a run needs, and run it."""
    file = directory / "records.jsonl"
    write_records(file, count, chat)
    write_base(directory / "base", tokenizer)
    seconds = _seconds(
        [
            *(
                sys.executable,
                "-m",
                "train.main",
                f"--config=configs/{'sft' if chat else 'commonsense'}.py",
            ),
            *(f"--config.model.path={directory / 'base'}", f"--config.data.path={file}"),
            *("--config.model.dtype=float32", "--config.method.num_modes=2"),
            *("--config.loop.steps=1", f"--workdir={directory / 'run'}"),
            f"--config.data.streaming={streaming}",
        ]
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    size = file.stat().st_size
    peak = 1024 * used.ru_maxrss
    above = peak - size
    return Figures(
        size / 2**20, peak / 2**20, above / 2**20, seconds, used.ru_utime + used.ru_stime
    )


class Epoch(NamedTuple):
    """An epoch of batches in a process of its own.

    Attributes:
        mean_mib: the resident set while batches are made, above that of the imports.
        peak_mib: the highest one from reading to the last batch, likewise.
        tokens: that the loss is on.
        seconds: from reading to the last batch.
    """

    mean_mib: float
    peak_mib: float
    tokens: int
    seconds: float


def epoch(file: Path, tokenizer: str, streaming: bool) -> Epoch:
    """Read, tokenise and iterate over the batches of an epoch, in this process."""
    config = DataConfig(str(file), validation_rows=100, streaming=streaming)
    loaded, before, since = load_tokenizer(tokenizer), resident(), time.perf_counter()
    with highest() as peak, tempfile.TemporaryDirectory(dir=file.parent) as directory:
        prepared = prepare(config, loaded, directory=Path(directory))
        stream = DataIterator(prepared.train, _ROWS, 0, config)
        found, tokens = [], 0
        for number in range(stream.num_steps(1.0)):
            tokens += int(np.sum(next(stream).weight_BT))
            if number % 100 == 0:
                found.append(resident())
    mean = sum(found) / len(found) - before
    seconds = time.perf_counter() - since
    return Epoch(mean / 2**20, (peak[0] - before) / 2**20, tokens, seconds)


def compare(directory: Path, count: int, tokenizer: str) -> str:
    """Both epochs, each in a process of its own, as lines of text."""
    file = directory / "records.jsonl"
    write_records(file, count)
    spawn = multiprocessing.get_context("spawn")
    found = []
    for streaming in (False, True):
        with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
            found.append(pool.submit(epoch, file, tokenizer, streaming).result())
    loaded, streamed = found
    if loaded.tokens != streamed.tokens:
        raise RuntimeError(f"{loaded.tokens} tokens were loaded, but {streamed.tokens} streamed")
    lines = [
        f"{name:<9}{one.mean_mib:>7,.0f} MiB in the epoch, {one.peak_mib:,.0f} at most, "
        f"{one.seconds:,.0f} s"
        for name, one in (("loaded", loaded), ("streamed", streamed))
    ]
    mean, peak = (
        getattr(streamed, name) / getattr(loaded, name) for name in ("mean_mib", "peak_mib")
    )
    size = file.stat().st_size / 2**20
    head = f"{count:,} records in a file of {size:,.0f} MiB"
    return "\n".join([head, *lines, f"{'ratio':<9}{mean:>7.2f} in the epoch, {peak:.2f} at most"])


def _seconds(command: list[str]) -> float:
    """Run it to its end; the time until it prints what follows the first step."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
    root = Path(__file__).parent.parent
    start, seconds = time.perf_counter(), math.nan
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith("step 1: "):
                seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return seconds


def main(argv: list[str] | None = None) -> None:
    """Print the figures."""
    parser: argparse.ArgumentParser = command.parser(main)
    parser.add_argument("--records", type=int, default=1_000_000, help="how many")
    parser.add_argument("--tokenizer", required=True, help="a model whose tokenizer reads them")
    parser.add_argument("--chat", action="store_true", help="conversations, through the template")
    parser.add_argument("--streaming", action="store_true", help="with config.data.streaming")
    parser.add_argument("--directory", type=Path, help="for all files; by default one that goes")
    parser.add_argument("--compare", action="store_true", help="an epoch loaded and streamed")
    args = parser.parse_args(argv)
    if args.compare and (args.chat or args.streaming):
        parser.error("--compare streams and loads the same records; leave --chat, --streaming out")
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        if args.compare:
            print(compare(Path(directory), args.records, args.tokenizer))
            return
        found = measure(Path(directory), args.records, args.tokenizer, args.chat, args.streaming)
    print(
        f"{args.records:,} records in a file of {found.file_mib:,.0f} MiB: {found.peak_mib:,.0f} "
        f"MiB at most, {found.above_mib:,.0f} above its size, {found.seconds:,.0f} s to the end of "
        f"the first step ({found.cpu_seconds:,.0f} s of CPU time)"
    )


if __name__ == "__main__":
    command.run(main)
