"""Gradients of d on one base beside those on another, layer by layer."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias
from unittest import mock

import jax
import numpy as np

from tera_jax.float8 import Float8Kernel
from tera_jax.ops import fp8_matmul
from train import data
from train.data import records
from train.training import run as runs
from train.training.loop import to_device
from train.training.run import Run
from train.training.steps.loss import loss_sum

Gradient: TypeAlias = list[np.ndarray]
"""A float64 vector for each layer."""
WITH_CODES = {
    "kernels": (),
    "forward": ("forward",),
    "backward": ("to_inputs",),
    "both": ("forward", "to_inputs"),
}
"""Of each base in e4m3 the functions of tera_jax.ops.fp8_matmul that are as they are."""


def make(run: Run) -> Callable[[Any], tuple[float, Gradient]]:
    """A function of a base: the mean loss of the held-out records, and the gradient of its sum."""
    config = run.config
    valid = data.tokenize(records.split(config.data)[1], run.tokenizer, config.data)
    d, size = runs.init_d(run), config.evaluate.batch_size
    held = data.held_out(valid, size, config.data, len(run.virtual_tokens))
    batches = [to_device(batch, run) for batch in held]

    def gradient(params: Any) -> tuple[float, Gradient]:
        def nll(d: Any, params: Any, frozen: Any, batch: Any) -> Any:
            variables = {"params": params, "frozen": frozen, "d": d}
            found = loss_sum(run.model, run.adapter, variables, batch)
            return found.nll, found.tokens

        step = jax.jit(jax.value_and_grad(nll, has_aux=True))
        with jax.set_mesh(run.mesh):
            found = jax.device_get([step(d, params, run.frozen, batch) for batch in batches])
        loss = sum(float(value[0]) for value, _ in found) / sum(float(v[1]) for v, _ in found)
        return loss, _by_layer([gradients for _, gradients in found])

    return gradient


@contextlib.contextmanager
def with_codes(kept: Sequence[str]) -> Iterator[None]:
    """Matmuls of an e4m3 base are of its dequantised kernels, but for those of ``kept``."""
    with contextlib.ExitStack() as stack:
        for name, plain in (("forward", _forward), ("to_inputs", _to_inputs)):
            if name not in kept:
                stack.enter_context(mock.patch.object(fp8_matmul, name, plain))
        yield


def _forward(exact: bool, x_TI: Any, codes_OI: Any, scales_O: Any) -> Any:
    """:func:`tera_jax.ops.fp8_matmul.forward` without a cast of x."""
    del exact
    return x_TI @ Float8Kernel(codes_OI, scales_O, x_TI.dtype).dequantize()


def _to_inputs(exact: bool, ct_TO: Any, codes_OI: Any, scales_O: Any, codes_IO: Any = None) -> Any:
    """:func:`tera_jax.ops.fp8_matmul.to_inputs` without a cast of the cotangent."""
    del exact
    codes_OI = codes_OI if codes_IO is None else codes_IO.T
    return ct_TO @ Float8Kernel(codes_OI, scales_O, ct_TO.dtype).dequantize().T


def _by_layer(gradients: Sequence[Any]) -> Gradient:
    """The sum of gradients, a vector for each layer of the stack."""
    total = jax.tree.map(lambda *each: sum(np.asarray(x, np.float64) for x in each), *gradients)
    leaves = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(total["layers"])]
    return list(np.concatenate(leaves, axis=1))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def cosines(found: Gradient, expected: Gradient) -> tuple[float, ...]:
    """Of the whole gradients, then of each layer's."""
    whole = cosine(np.concatenate(found), np.concatenate(expected))
    return (whole, *map(cosine, found, expected))


def depths(layers: int) -> list[int]:
    """Layers from the first to the last, at most six."""
    return np.linspace(0, layers - 1, min(6, layers)).astype(int).tolist()
