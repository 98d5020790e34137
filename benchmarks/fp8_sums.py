"""The error of the sums of e4m3 matmuls, beside float64 of the same codes.

    python -m benchmarks.fp8_sums --inputs 4096 11008 --outputs 4096

Input and kernel are random, and cast once; float64 multiplies the codes and scales that the device
does, so that no cast is in the error. It is a norm, as a part of that of the result. ``fast`` sums
are those of training: a GPU adds them up in fewer bits than float32. ``exact`` ones are those
under ``jax.default_matmul_precision("highest")``. A CPU adds up both in float32. The last column is
the error of float64's own result, rounded to the type of the activations.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax import float8
from tera_jax.float8 import Float8Kernel
from tera_jax.ops import fp8_matmul
from train import command


class Row(NamedTuple):
    """One direction of one kernel, ``size`` being what it sums over.

    ``rounding`` is the error of float64's result, rounded to the type.
    """

    direction: str
    size: int
    dtype: str
    fast: float
    exact: float
    rounding: float


def measure(tokens: int, inputs: int, outputs: int) -> Iterator[Row]:
    """Both directions, of activations in float32 and in bfloat16."""
    random = np.random.default_rng(0)
    wide = random.standard_normal((inputs, outputs), np.float32) / inputs**0.5
    kernel = jax.jit(float8.by_channels)(jnp.asarray(wide))
    for direction, size, function in (
        ("forward", inputs, fp8_matmul.forward),
        ("backward", outputs, fp8_matmul.to_inputs),
    ):
        rows = random.standard_normal((tokens, size), np.float32)
        for dtype in (jnp.float32, jnp.bfloat16):
            given_TK = jnp.asarray(rows, dtype)
            right = _in_float64(direction, given_TK, kernel)
            found = (
                jax.jit(functools.partial(function, exact))(
                    given_TK, kernel.codes, kernel.channel_scales
                )
                for exact in (False, True)
            )
            errors = [error(each, right) for each in (*found, jnp.asarray(right, dtype))]
            yield Row(direction, size, given_TK.dtype.name, *errors)


def _in_float64(direction: str, given_TK: Any, kernel: Float8Kernel) -> np.ndarray:
    codes_OI, scales_O = (np.asarray(x, np.float64) for x in (kernel.codes, kernel.channel_scales))
    if direction == "backward":
        given_TK = given_TK.astype(jnp.float32) * kernel.channel_scales[None]
    codes_TK, scales_T1 = (
        np.asarray(each, np.float64) for each in jax.jit(float8.by_rows)(given_TK)
    )
    across = codes_OI.T * scales_O[None] if direction == "forward" else codes_OI
    return np.asarray(codes_TK @ across * scales_T1)


def error(found: Any, right: np.ndarray) -> float:
    """The norm of the difference, as a part of that of what is right."""
    difference = np.asarray(found.astype(jnp.float32), np.float64) - right
    return float(np.linalg.norm(difference) / np.linalg.norm(right))


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = command.parser(main)
    parser.add_argument("--tokens", type=int, default=256, help="rows of activations")
    parser.add_argument("--inputs", type=int, nargs="+", default=[4096], help="of kernels")
    parser.add_argument("--outputs", type=int, default=4096, help="of each")
    args = parser.parse_args(argv)
    if wrong := [side for side in (*args.inputs, args.outputs) if side < 16 or side % 16]:
        parser.error(f"sides {wrong}; an e4m3 matmul takes multiples of 16")
    print("| direction | summed over | type | fast sums | exact sums | rounding to the type |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for inputs in args.inputs:
        for row in measure(args.tokens, inputs, args.outputs):
            errors = " | ".join(f"{each:.1e}" for each in row[3:])
            print(f"| {row.direction} | {row.size:,} | {row.dtype} | {errors} |", flush=True)


if __name__ == "__main__":
    command.run(main)
