"""The held-out loss of a base in 8 and 4 bits, beside that of the base, and what it takes.

    python -m benchmarks.quantized --model=SmolLM2-135M-Instruct.gguf \
        --data=commonsense_161k.jsonl.gz --rows=120

The loss is in nats a target token, over the last ``--rows`` of the shuffled records, before
training.

With ``--gradients=lora`` the table has the cosine of the gradient of that method's d to the one on
the base as it is: of all layers, and of some. ``fp8 backward`` is a base in e4m3 of which only the
backward pass multiplies codes. ``fp8:both`` has codes in both layouts.
"""

import argparse
import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from benchmarks import gradients
from benchmarks.gradients import WITH_CODES
from benchmarks.steps import FP8, FP8_BOTH, quantized
from tera_jax import quantize
from tera_jax.llama.sharding import parameter_shardings
from train import command, data
from train.config import Config, default, parse
from train.data import records
from train.training import run as runs
from train.training.loop import held_out_loss
from train.training.run import Run
from train.training.steps.step import make_eval_step

FP8_BACKWARD = "fp8 backward"


class Row(NamedTuple):
    """One kind of base. ``bits`` are those of a weight of the quantised layers, scales included.

    ``block`` is 0 where scales are not of blocks. ``cosines`` are of the whole gradient and of each
    layer's; empty where none was asked for.
    """

    kind: str
    block: int
    bits: float
    nbytes: int
    loss: float
    cosines: tuple[float, ...] = ()


def measure(
    config: Config, kinds: Sequence[str], blocks: Sequence[int], with_gradients: bool = False
) -> Iterator[Row]:
    """The base of a configuration as it is, then in every kind with every size of block."""
    run = runs.build(config)
    given = gradients.make(run) if with_gradients else _held_out(run)
    loss, expected = given(run.params)
    cosines = gradients.cosines(expected, expected) if with_gradients else ()
    whole = jax.tree.leaves(run.params)[0].dtype.itemsize * 8
    yield Row(config.model.dtype, 0, whole, _nbytes(run.params), loss, cosines)
    layout = functools.partial(parameter_shardings, mesh=run.mesh)
    kinds = [*kinds, *[FP8_BACKWARD] * (with_gradients and FP8 in kinds)]
    for kind in kinds:
        in_fp8 = kind in (FP8, FP8_BOTH, FP8_BACKWARD)
        for block in [quantize.BLOCK] if in_fp8 else blocks:
            stored = FP8 if kind == FP8_BACKWARD else kind
            params = quantized(run.params, stored, block, layout)
            backward = gradients.with_codes(WITH_CODES["backward"])
            with backward if kind == FP8_BACKWARD else contextlib.nullcontext():
                loss, found = given(params)
            leaves = jax.tree.leaves(params, is_leaf=quantize.is_quantized)
            kernels = [leaf for leaf in leaves if quantize.is_quantized(leaf)]
            bits = 8 * _nbytes(kernels) / sum(kernel.size for kernel in kernels)
            cosines = gradients.cosines(found, expected) if with_gradients else ()
            yield Row(kind, 0 if in_fp8 else block, bits, _nbytes(params), loss, cosines)


def _held_out(run: Run) -> Any:
    """A function of a base: its loss, and no gradient."""
    config = run.config.data
    valid = data.tokenize(records.split(config)[1], run.tokenizer, config)
    d = runs.init_d(run)  # with it the adapted model is the base

    def loss(params: Any) -> tuple[float, Any]:
        kept = run._replace(params=params)
        step = make_eval_step(run.model, run.adapter, run.mesh, params)
        with jax.set_mesh(run.mesh):
            return held_out_loss(kept, step, d, valid), []

    return loss


def _nbytes(params: Any) -> int:
    return sum(array.nbytes for array in jax.tree.leaves(params))


def add_arguments(parser: argparse.ArgumentParser, rows: int) -> None:
    """Those of a base and its held-out records; ``rows`` is how many there are by default."""
    parser.add_argument("--model", required=True, help="as config.model.path")
    parser.add_argument("--data", required=True, help="as config.data.path")
    parser.add_argument("--prompt", default="hira", help="as config.data.prompt")
    parser.add_argument("--max-prompt", type=int, default=256)
    parser.add_argument("--max-response", type=int, default=16)
    parser.add_argument("--rows", type=int, default=rows)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")


def configuration(args: argparse.Namespace, method: str) -> Config:
    """What the arguments of :func:`add_arguments` say, with the recipe of a method."""
    config = default(method)
    config.model.update(path=args.model, dtype=args.dtype)
    config.data.update(path=args.data, prompt=args.prompt, validation_rows=args.rows)
    config.data.update(max_prompt=args.max_prompt, max_response=args.max_response)
    config.evaluate.batch_size = args.batch
    return parse(config)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = command.parser(main)
    add_arguments(parser, rows=120)
    kinds = [*quantize.KINDS, FP8_BOTH]
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=quantize.KINDS)
    parser.add_argument("--blocks", nargs="+", type=int, default=[quantize.BLOCK])
    parser.add_argument("--gradients", metavar="METHOD", help="with its recipe's settings")
    args = parser.parse_args(argv)

    config = configuration(args, args.gradients or "tera")
    first = None
    for row in measure(config, args.kinds, args.blocks, args.gradients is not None):
        depths = gradients.depths(len(row.cosines) - 1) if row.cosines else []
        if first is None:
            first = row.loss
            head = ["base", "block", "bits a weight", "GiB", "held-out loss", "change"]
            head += ["cosine", *(f"layer {depth}" for depth in depths)] if depths else []
            print("| " + " | ".join(head) + " |")
            print("| --- |" + " ---: |" * (len(head) - 1))
        change = "" if row.kind == args.dtype else f"{row.loss / first - 1:+.2%}"
        block = f"{row.block}" if row.block else ""
        cells = [row.kind, block, f"{row.bits:.2f}", f"{row.nbytes / 2**30:.3f}"]
        cells += [f"{row.loss:.4f}", change]
        cells += [
            f"{row.cosines[at]:.5f}" for at in [0, *(1 + depth for depth in depths)] if depths
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    command.run(main)
