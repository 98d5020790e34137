r"""A training step beside PyTorch PEFT's on one GPU: tokens a second, memory, time to compile.

    python -m benchmarks.speed --model=llama-2-7b --rows=32 --length=256 --anchors
    python -m benchmarks.speed --model=llama-2-7b --layers=8 --sweep=tokens
    python -m benchmarks.speed --model=llama-2-7b --quantize=nf4 --remat=full --cases tera
    python -m benchmarks.speed --model=llama-2-7b --quantize none fp8 --anchors lora \
        --cases frozen tera:structured lora
    python -m benchmarks.speed --model=llama-2-7b --records=commonsense_161k.jsonl.gz \
        --tokenizer=SmolLM2-135M-Instruct.gguf --anchors
    python -m benchmarks.speed --model=llama-2-7b --mesh data=1 data=2 fsdp=2
    python -m benchmarks.speed --model=tiny --rows=4 --length=64        # make bench
    python -m benchmarks.speed --model=llama-2-7b --cases frozen tera:all:longer:structured
    python -m benchmarks.speed --model=llama-2-7b --sum     # all linear layers by arithmetic
    python -m benchmarks.speed --check      # has a row become slower? benchmarks/regression.py

Shapes are those of ``--model``, weights and tokens random, the loss on every token. All settings
run one after another in one process: the anchors of benchmarks/anchors.py first, then the rate of
a large matrix product, then our own steps, each compiled, checked and timed.

"frozen" is the base whose only gradient is that of one bias of the embedding: what any method pays
at least. Model FLOPs are 4 a parameter and token, forward and backward through frozen weights.
Memory is what the compiled step plans: arguments, temporaries and results.

With several kinds of ``--quantize`` all cases run on each base. ``fp8:both`` is ``fp8`` with codes
in both layouts. On these two a line says which matmuls the compiled step has, how many kernels it
transposes, and whether it writes kernels in more bits.

Of several meshes each has its own table; ``--rows`` are those of a shard of the batch, tokens those
of all devices, and memory that of one.

With ``--records`` batches are of 32 real records: PEFT pads them, and we pack as many; with
``--padded`` we pad them as well.

Steps are timed as in training, many in a row and none waited for, in rounds of which the median
counts.

Sweeps: ``tokens`` goes from 512 to 32,768 a step, with TeRA by every route, and shows how near its
choice is to the fastest. ``order`` of the network goes from 2 to 24, ``targets`` from q and v to
all linear layers. ``methods`` takes every method.
"""

import json
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from benchmarks import regression
from benchmarks.batches import Real, for_peft, read_records
from benchmarks.cases import ALL_LINEAR, FROZEN, named
from benchmarks.steps import FP8_BOTH, TINY, Bench, Measurement, matmul_rate, random_batch
from benchmarks.sums import sums
from benchmarks.sweeps import choices, sweep
from tera_jax import sharding
from tera_jax.ops import dispatch
from tera_jax.quantize import BLOCK, KINDS
from train import command
from train.data import Batch
from train.params.shapes import MODELS

_AT_ONCE = ("prompt", "p_tuning", "loretta", "unilora", "unires", "vblora", "fourierft")
"""Methods whose first d is not the base."""


def check(found: Sequence[Measurement], falls: bool = True) -> None:
    """Raise ValueError unless every step starts at the loss of its frozen base, and goes down.

    Those of :data:`_AT_ONCE` change the model at once. Losses of several batches need not fall.
    """
    base = {(r.tokens, r.base): r.first_loss for r in found if r.name.startswith(FROZEN)}
    for row in found:
        if row.name.startswith(("PEFT", "tunix")) or row.note or row.name.split()[0] in _AT_ONCE:
            continue
        expected = base.get((row.tokens, row.base), row.first_loss)
        if not math.isclose(row.first_loss, expected, rel_tol=2e-3):
            raise ValueError(f"{row}: starts at {row.first_loss}, the frozen base at {expected}")
        if falls and not row.last_loss < row.first_loss:
            raise ValueError(f"{row}: the loss has not fallen")


def table(found: list[Measurement], size: int, rate: float) -> Iterator[str]:
    """Markdown, with each row's ratio to its own frozen base and to compiled PEFT LoRA."""
    head = ["setting", "tokens", "tokens/s", "to frozen", "to PEFT LoRA", "ms", "model TFLOP/s"]
    head += ["of the product's rate", "peak GiB", "compile s", "trained"]
    yield "| " + " | ".join(head) + " |"
    yield "| --- |" + " ---: |" * (len(head) - 1)
    anchor = [row.tokens_per_second for row in found if row.name == "PEFT lora compiled"]
    peft = anchor[0] if anchor else math.nan
    for row, to_base in zip(found, regression.to_frozen(found), strict=True):
        if row.note:
            yield f"| {row.name} | {row.tokens} | {row.note} |" + " |" * (len(head) - 3)
            continue
        flops = 4 * size * row.tokens_per_second
        to_peft = row.tokens_per_second / peft
        cells = (
            row.name,
            f"{row.tokens:,}",
            f"{row.tokens_per_second:,.0f}",
            f"{to_base:.3f}" if math.isfinite(to_base) else "",
            f"{to_peft:.3f}" if math.isfinite(to_peft) else "",
            f"{row.step_seconds * 1e3:.1f}",
            f"{flops / 1e12:.1f}",
            f"{flops / rate:.1%}",
            f"{row.peak_bytes / 2**30:.2f}",
            f"{row.compile_seconds:.1f}",
            f"{row.trained:,}",
        )
        yield "| " + " | ".join(cells) + " |"


ANCHORS = ("lora", "lora:eager", "vera", "hira", "tunix", "tunix:decoder", "tunix:none")


def run_anchors(
    names: Sequence[str], shape: dict[str, Any], batches: Sequence[Batch], steps: int
) -> Iterator[Measurement]:
    """Those of PEFT, compiled or ``:eager``, and of tunix, on batches of one record a row."""
    peers = [name for name in names if name.startswith("tunix")]
    names = [name for name in names if name not in peers]
    if names:
        yield from _of_peft(names, shape, batches, steps)
    for name in peers:
        from benchmarks import jax_peer  # only where tunix is installed

        remat = name.partition(":")[2] or "block"
        row = jax_peer.measure(shape, batches[0].tokens_BL, remat, steps)
        yield Measurement(f"{name} lora", batches[0].tokens_BL.size, **row._asdict())


def _of_peft(
    names: Sequence[str], shape: dict[str, Any], batches: Sequence[Batch], steps: int
) -> Iterator[Measurement]:
    # before JAX takes memory, and only where torch is installed
    from benchmarks import anchors, torch_llamas

    config = torch_llamas.llama(
        shape["hidden_size"],
        shape["intermediate_size"],
        shape["num_hidden_layers"],
        shape["num_attention_heads"],
        shape["num_key_value_heads"],
        shape["hidden_size"] // shape["num_attention_heads"],
        shape["vocab_size"],
        rms_norm_eps=shape["rms_norm_eps"],
    )
    for name in names:
        adapter, _, mode = name.partition(":")
        compiled = mode != "eager"
        setting = anchors.Setting(adapter, compiled, attention="causal")
        fed = [for_peft(batch) for batch in batches]
        row = anchors.measure(config, fed, setting, steps=max(steps, len(fed)))
        if len(fed) == 1:
            anchors.check(row)
        yield Measurement(
            name=f"PEFT {adapter} {'compiled' if compiled else 'eager'}",
            tokens=batches[0].tokens_BL.size,
            tokens_per_second=row.tokens_per_second,
            step_seconds=row.step_seconds,
            peak_bytes=row.peak_bytes,
            compile_seconds=row.first_seconds,
            first_loss=row.first_loss,
            last_loss=row.last_loss,
            trained=row.trained,
            note=row.note,
        )


def main() -> None:
    """Measure, print, check."""
    parser = command.parser(main)
    parser.add_argument("--model", choices=[*MODELS, "tiny"], default="llama-2-7b")
    parser.add_argument("--layers", type=int, help="so many layers only")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    parser.add_argument("--remat", choices=["none", "dots", "full"], default="dots")
    parser.add_argument(
        "--quantize",
        nargs="+",
        choices=["none", *KINDS, FP8_BOTH],
        default=["none"],
        help="the base",
    )
    parser.add_argument("--block", type=int, default=BLOCK, help="of a quantised base, not fp8")
    parser.add_argument("--mesh", nargs="+", default=["data=1"], help="such as data=2 or fsdp=2")
    parser.add_argument("--cases", nargs="+", help="such as frozen lora tera tera:ahead")
    parser.add_argument("--sweep", choices=["tokens", "order", "targets", "methods"])
    parser.add_argument(
        "--anchors", nargs="*", choices=ANCHORS, help="PEFT or tunix as well; all of PEFT if bare"
    )
    parser.add_argument("--records", help="commonsense records, to measure on their lengths")
    parser.add_argument("--tokenizer", help="a model whose tokenizer reads --records")
    parser.add_argument("--packed", type=int, default=1088, help="tokens of a packed row")
    parser.add_argument("--padded", action="store_true", help="real records padded by us too")
    parser.add_argument("--profile", action="store_true", help="the kernels of a step as well")
    parser.add_argument("--output", type=Path, help="JSON lines, one a row")
    parser.add_argument("--check", action="store_true", help="is a row slower than expected?")
    parser.add_argument("--record", action="store_true", help="the ratios as the expected ones")
    parser.add_argument("--expected", type=Path, default=regression.FILE, help="of --check")
    parser.add_argument("--sum", nargs="?", const="H100", metavar="GPU", help="by arithmetic alone")
    args = parser.parse_args()
    guarded = args.check or args.record
    entries = regression.prepare(args) if guarded else []

    shape = dict(TINY if args.model == "tiny" else MODELS[args.model])
    shape["num_hidden_layers"] = args.layers or shape["num_hidden_layers"]
    if args.sum:
        cases = named(args.cases or ALL_LINEAR, args.rows, args.length, args.remat)
        print(*sums(cases, shape, args.sum), sep="\n")
        return

    def keep(row: Measurement) -> Measurement:
        print(row, flush=True)
        if args.output:
            with args.output.open("a") as file:
                file.write(json.dumps(row._asdict()) + "\n")
        return row

    real = None
    if args.records:
        options = (shape["vocab_size"], max(args.steps, 20), args.packed)
        real = read_records(args.records, args.tokenizer, *options)
    anchors: list[Measurement] = []
    if args.anchors is not None:
        fed = real.padded if real else [random_batch(args.rows, args.length, shape["vocab_size"])]
        names = args.anchors or [name for name in ANCHORS if not name.startswith("tunix")]
        if real and any(name.startswith("tunix") for name in names):
            raise ValueError("--anchors tunix with --records: it is measured on full rows alone")
        anchors = [keep(row) for row in run_anchors(names, shape, fed, args.steps)]
    on_gpu = dispatch.on_gpu()
    dtype = jnp.bfloat16 if on_gpu else jnp.float32
    rate = matmul_rate(8192 if on_gpu else 512, dtype)
    print(f"matrix product: {rate / 1e12:.2f} TFLOP/s", flush=True)
    for mesh in args.mesh:
        print(f"mesh {mesh}", flush=True)
        found = []
        for kind in args.quantize:
            bench = Bench(shape, dtype, args.steps, args.profile, kind, args.block, mesh)
            found += [keep(row) for row in _measured(bench, args, mesh, real)]
            size = bench.size
            del bench  # before the next one takes its memory
        devices = math.prod(sharding.parse_mesh(mesh).values())
        print(*table([*anchors, *found], size, devices * rate), sep="\n")
        if args.sweep == "tokens":
            print(*choices(found, shape["hidden_size"]), sep="\n")
        check(found, falls=real is None)
        if guarded:
            _judge(args, shape["num_hidden_layers"], entries, found)


def _judge(
    args: Any, layers: int, entries: list[regression.Entry], found: list[Measurement]
) -> None:
    """Says which rows are slower, and ends with status 1 if one is; or records them."""
    setting = regression.Setting(
        args.model, layers, args.rows, args.length, args.remat, args.mesh[0]
    )
    command_line = shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])
    now = regression.measured(found, setting, command_line)
    verdict = regression.compare(entries, now, found)
    if args.check:
        print(*verdict.lines, sep="\n")
    if args.record:
        regression.record(args.expected, now)
        print(f"recorded in {args.expected}")
    if args.check and verdict.slower:
        print(f"slower: {', '.join(verdict.slower)}")
        sys.exit(1)


def _measured(bench: Bench, args: Any, mesh: str, real: Real | None) -> Iterator[Measurement]:
    """All cases on one mesh; of real records each packed, and before that padded if asked for."""
    sizes = sharding.parse_mesh(mesh)
    rows = args.rows * sizes["data"] * sizes["fsdp"]
    if args.sweep:
        cases = sweep(args.sweep, rows, args.length, bench.config.hidden_size, args.remat)
    else:
        names = args.cases or (FROZEN, "lora", "vera", "hira", "tera")
        cases = named(names, rows, args.length, args.remat)
    for case in cases:
        if real is None:
            yield bench.measure(case)
            continue
        if args.padded:
            yield bench.measure(case, real.padded)
        yield bench.measure(case._replace(packed=args.packed), real.packed)


if __name__ == "__main__":
    command.run(main)
