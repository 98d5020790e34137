"""The held-out loss of a base in 8 and 4 bits, beside that of the base.

    python -m benchmarks.quantized --model=SmolLM2-135M-Instruct.gguf \
        --data=commonsense_161k.jsonl.gz --rows=120

The loss is in nats a target token, over the last ``--rows`` of the shuffled records.
"""

import argparse
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from tera_jax import quantize
from tera_jax.llama.sharding import parameter_shardings
from train import command, data
from train.config import Config, default, parse
from train.data import records
from train.training import run as runs
from train.training.loop import held_out_loss
from train.training.step import make_eval_step


class Row(NamedTuple):
    """One kind of base. ``bits`` are those of a weight of the quantised layers, scales included.

    ``block`` is 0 where scales are not of blocks.
    """

    kind: str
    block: int
    bits: float
    loss: float


def measure(config: Config, kinds: Sequence[str], blocks: Sequence[int]) -> Iterator[Row]:
    """The base of a configuration as it is, then in every kind with every size of block."""
    run = runs.build(config)
    valid = data.tokenize(records.split(config.data)[1], run.tokenizer, config.data)
    d = runs.init_d(run)  # with it the adapted model is the base

    def loss(params: Any) -> float:
        kept = run._replace(params=params)
        step = make_eval_step(run.model, run.adapter, run.mesh, params)
        with jax.set_mesh(run.mesh):
            return held_out_loss(kept, step, d, valid)

    whole = jax.tree.leaves(run.params)[0].dtype.itemsize * 8
    yield Row(config.model.dtype, 0, whole, loss(run.params))
    layout = functools.partial(parameter_shardings, mesh=run.mesh)
    for kind in kinds:
        for block in [quantize.BLOCK] if kind == "fp8" else blocks:
            params = quantize.quantize(run.params, kind, block, layout)
            leaves = jax.tree.leaves(params, is_leaf=quantize.is_quantized)
            kernels = [leaf for leaf in leaves if quantize.is_quantized(leaf)]
            size = sum(array.nbytes for array in jax.tree.leaves(kernels))
            bits = 8 * size / sum(kernel.size for kernel in kernels)
            yield Row(kind, 0 if kind == "fp8" else block, bits, loss(params))


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
    parser.add_argument("--kinds", nargs="+", choices=quantize.KINDS, default=quantize.KINDS)
    parser.add_argument("--blocks", nargs="+", type=int, default=[quantize.BLOCK])
    args = parser.parse_args(argv)

    print("| base | block | bits a weight | held-out loss | change |")
    print("| --- | ---: | ---: | ---: | ---: |")
    first = None
    for row in measure(configuration(args, "tera"), args.kinds, args.blocks):
        first = row.loss if first is None else first
        block = f"{row.block}" if row.block else ""
        change = "" if row.kind == args.dtype else f"{row.loss / first - 1:+.2%}"
        print(f"| {row.kind} | {block} | {row.bits:.2f} | {row.loss:.4f} | {change} |", flush=True)


if __name__ == "__main__":
    command.run(main)
