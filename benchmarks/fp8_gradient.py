"""The gradient of d on a base in e4m3 beside that on the base itself, layer by layer.

    python -m benchmarks.fp8_gradient --model=SmolLM2-135M-Instruct.gguf \
        --data=commonsense_161k.jsonl.gz --method=lora

The gradient is that of the summed loss of the last ``--rows`` of the shuffled records, before the
first step. Four bases stand beside the one that is loaded:

- ``kernels``: kernels as their codes read, products in ``--dtype``.
- ``forward``: the products of the forward pass are of e4m3 codes.
- ``backward``: those of the backward pass.
- ``both``: as ``quantize=fp8`` trains.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks import gradients
from benchmarks.gradients import WITH_CODES, Gradient
from benchmarks.quantized import add_arguments, configuration
from tera_jax import quantize
from tera_jax.llama.sharding import parameter_shardings
from train import command
from train.config import Config
from train.training import run as runs


class Row(NamedTuple):
    """One base. ``cosines`` are those of each layer's gradient, ``ratio`` is that of norms."""

    base: str
    loss: float
    cosine: float
    ratio: float
    cosines: tuple[float, ...]


def measure(config: Config) -> Iterator[Row]:
    """The base of a configuration as it is, then the four others."""
    run = runs.build(config)
    gradient = gradients.make(run)
    layout = functools.partial(parameter_shardings, mesh=run.mesh)
    in_fp8 = quantize.quantize(run.params, "fp8", layout=layout)
    loss, expected = gradient(run.params)
    yield _row(config.model.dtype, loss, expected, expected)
    for base, kept in WITH_CODES.items():
        with gradients.with_codes(kept):
            yield _row(base, *gradient(in_fp8), expected)


def _row(base: str, loss: float, found: Gradient, expected: Gradient) -> Row:
    norms = [np.linalg.norm(np.concatenate(each)) for each in (found, expected)]
    whole, *layers = gradients.cosines(found, expected)
    return Row(base, loss, whole, float(norms[0] / norms[1]), tuple(layers))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = command.parser(main)
    add_arguments(parser, rows=48)
    parser.add_argument("--method", default="lora", help="with the recipe's settings, on q and v")
    args = parser.parse_args(argv)
    for row in measure(configuration(args, args.method)):
        depths = gradients.depths(len(row.cosines))
        if row.base == args.dtype:
            head = ["base", "loss", "cosine", "norm", *(f"layer {depth}" for depth in depths)]
            print("| " + " | ".join(head) + " |")
            print("| --- |" + " ---: |" * (len(head) - 1))
        cells = [row.base, f"{row.loss:.4f}", f"{row.cosine:.5f}", f"{row.ratio:.4f}"]
        cells += [f"{row.cosines[depth]:.5f}" for depth in depths]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    command.run(main)
