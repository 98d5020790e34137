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

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from benchmarks.quantized import add_arguments, configuration
from tera_jax import quantize
from tera_jax.float8 import Float8Kernel
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.ops import fp8_matmul
from train import command, data
from train.config import Config
from train.data import records
from train.training import run as runs
from train.training.loop import to_device
from train.training.loss import loss_sum

WITH_CODES = {
    "kernels": (),
    "forward": ("forward",),
    "backward": ("to_inputs",),
    "both": ("forward", "to_inputs"),
}
"""Of each base the functions of tera_jax.ops.fp8_matmul that are as they are."""


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
    valid = data.tokenize(records.split(config.data)[1], run.tokenizer, config.data)
    d, size = runs.init_d(run), config.evaluate.batch_size
    held = data.held_out(valid, size, config.data, len(run.virtual_tokens))
    batches = [to_device(batch, run) for batch in held]
    layout = functools.partial(parameter_shardings, mesh=run.mesh)
    in_fp8 = quantize.quantize(run.params, "fp8", layout=layout)

    def gradient(params: Any) -> tuple[float, list[np.ndarray]]:
        """The mean loss, and each layer's gradient of the sum, float64."""

        def nll(d: Any, params: Any, frozen: Any, batch: Any) -> Any:
            variables = {"params": params, "frozen": frozen, "d": d}
            found = loss_sum(run.model, run.adapter, variables, batch)
            return found.nll, found.tokens

        step = jax.jit(jax.value_and_grad(nll, has_aux=True))
        with jax.set_mesh(run.mesh):
            found = jax.device_get([step(d, params, run.frozen, batch) for batch in batches])
        loss = sum(float(value[0]) for value, _ in found) / sum(float(v[1]) for v, _ in found)
        return loss, _by_layer([gradients for _, gradients in found])

    loss, expected = gradient(run.params)
    yield _row(config.model.dtype, loss, expected, expected)
    for base, kept in WITH_CODES.items():
        with contextlib.ExitStack() as stack:
            for name, plain in (("forward", _forward), ("to_inputs", _to_inputs)):
                if name not in kept:
                    stack.enter_context(mock.patch.object(fp8_matmul, name, plain))
            yield _row(base, *gradient(in_fp8), expected)


def _forward(exact: bool, x_TI: Any, codes_OI: Any, scales_O: Any) -> Any:
    """:func:`tera_jax.ops.fp8_matmul.forward` without a cast of x."""
    del exact
    return x_TI @ Float8Kernel(codes_OI, scales_O, x_TI.dtype).dequantize()


def _to_inputs(exact: bool, ct_TO: Any, codes_OI: Any, scales_O: Any, codes_IO: Any = None) -> Any:
    """:func:`tera_jax.ops.fp8_matmul.to_inputs` without a cast of the cotangent."""
    del exact, codes_IO
    return ct_TO @ Float8Kernel(codes_OI, scales_O, ct_TO.dtype).dequantize().T


def _by_layer(gradients: Sequence[Any]) -> list[np.ndarray]:
    """The sum of gradients, a vector for each layer of the stack."""
    total = jax.tree.map(lambda *each: sum(np.asarray(x, np.float64) for x in each), *gradients)
    leaves = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(total["layers"])]
    return list(np.concatenate(leaves, axis=1))


def _row(base: str, loss: float, found: list[np.ndarray], expected: list[np.ndarray]) -> Row:
    whole, wanted = np.concatenate(found), np.concatenate(expected)
    return Row(
        base,
        loss,
        _cosine(whole, wanted),
        float(np.linalg.norm(whole) / np.linalg.norm(wanted)),
        tuple(map(_cosine, found, expected)),
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = command.parser(main)
    add_arguments(parser, rows=48)
    parser.add_argument("--method", default="lora", help="with the recipe's settings, on q and v")
    args = parser.parse_args(argv)
    for row in measure(configuration(args, args.method)):
        depths = np.linspace(0, len(row.cosines) - 1, min(6, len(row.cosines))).astype(int)
        if row.base == args.dtype:
            head = ["base", "loss", "cosine", "norm", *(f"layer {depth}" for depth in depths)]
            print("| " + " | ".join(head) + " |")
            print("| --- |" + " ---: |" * (len(head) - 1))
        cells = [row.base, f"{row.loss:.4f}", f"{row.cosine:.5f}", f"{row.ratio:.4f}"]
        cells += [f"{row.cosines[depth]:.5f}" for depth in depths]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    command.run(main)
