r"""The Pallas kernels by themselves, beside the same by XLA.

    python -m benchmarks.kernels --tokens 8192 4096
    python -m benchmarks.kernels --scheme "4096|2x43x8x16" "2x43x8x16|4096"

Each is called ten times in one program, with other small arrays each time, for one kernel of a
base's of the size of the scheme and a batch of so many tokens, in bfloat16. ``differs`` is the norm
of the difference of the two results as a part of that of the result in float32 and by XLA alone,
first of the Pallas kernel's and then of XLA's. Elsewhere than on a GPU the kernels are interpreted,
which is slow.
"""

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import rounds
from tera_jax.methods import tera
from tera_jax.methods.tera import TeRA
from tera_jax.network import contraction, cost_model, hadamard, structured
from tera_jax.network.tensorization import Tensorization
from tera_jax.ops import dispatch, rms_norm
from tera_jax.ops.numerics import add_update
from tera_jax.random import seed_key
from train import command

CALLS = 10
"""Of a function in one program: launching one takes longer than some of them."""
STEPS = 5
"""Programs of a round."""


class Pair(NamedTuple):
    """Two functions ``(small, *large) -> arrays`` of the same result, and what they take."""

    name: str
    kernel: Callable[..., Any]
    xla: Callable[..., Any]
    small: Any
    large: tuple[Any, ...]


class Inputs(NamedTuple):
    """Random, in one type but for d and the scale, which are float32."""

    scheme: Tensorization
    dense: Any
    fast: Any
    d: list[Any]
    scale_J: Any
    kernel_JO: Any
    x_TJ: Any
    ct_TO: Any


def draw(scheme: Tensorization, tokens: int) -> Inputs:
    """In float32: a dense and a structured network, a kernel, and a batch with its cotangent."""
    init = jax.jit(tera.init_frozen, static_argnums=(1, 2))
    structured_ = TeRA(gain=1.0, structure="hadamard")
    key, (width, out), whole = seed_key(0, "kernels"), scheme.shape, max(scheme.modes)
    random = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return jnp.asarray(random.standard_normal(shape), jnp.float32)

    return Inputs(
        scheme,
        init(key, scheme, TeRA(gain=1.0)),
        init(key, scheme, structured_),
        [1 + 0.5 * normal(rank) for rank in scheme.ranks],
        1 + 0.5 * normal(whole),
        normal(width, out) / width**0.5,
        normal(tokens, width),
        normal(tokens, out),
    )


def half(inputs: Inputs) -> Inputs:
    """What a layer in bfloat16 sees."""
    found = jax.tree.map(lambda array: array.astype(jnp.bfloat16), inputs[1:])
    return Inputs(inputs.scheme, *found)._replace(d=inputs.d, scale_J=inputs.scale_J)


def pairs(inputs: Inputs, interpret: bool) -> list[Pair]:
    """All of them, of these inputs."""
    fast, dense, d = inputs.fast, inputs.dense, inputs.d
    kernel_JO, x_TJ, ct_TO = inputs.kernel_JO, inputs.x_TJ, inputs.ct_TO
    split = inputs.scheme.split
    split_in = split > 1
    signs_J = fast["factors"][-split_in].astype(jnp.float32)
    whole_TJ = ct_TO if split_in else x_TJ

    def adapted(d: Any, fast: Any, kernel_JO: Any) -> Any:
        parts = structured.parts(fast["core"], fast["factors"], d, split_in)
        return structured.adapted(kernel_JO, *parts, interpret, split_in)

    def adapted_by_xla(d: Any, fast: Any, kernel_JO: Any) -> Any:
        update = contraction.network(fast["core"], fast["factors"], d)
        return add_update(kernel_JO, update.reshape(kernel_JO.shape))

    def gradients(d: Any, fast: Any, x_TJ: Any, ct_TO: Any) -> Any:
        def parts(d: Any) -> Any:
            return structured.parts(fast["core"], fast["factors"], d, split_in)

        network, trained = parts(d)
        _, pull = jax.vjp(lambda d: parts(d)[1], d)
        found = structured.gradients(x_TJ, ct_TO, network, trained, interpret, split_in)
        return pull(found)

    def gradients_by_xla(d: Any, fast: Any, x_TJ: Any, ct_TO: Any) -> Any:
        def through(d: Any) -> Any:
            return contraction.through(x_TJ, fast["core"], fast["factors"], d, split)

        return jax.vjp(through, d)[1](ct_TO)

    def inner(d: Any, dense: Any, fused: bool) -> Any:
        with dispatch.forced(fused):
            return contraction.but_first(dense["core"], dense["factors"], d)

    def inner_back(d: Any, dense: Any, ct_RO: Any, fused: bool) -> Any:
        return jax.vjp(lambda d: inner(d, dense, fused), d)[1](ct_RO)

    def by_each(function: Callable[..., Any]) -> tuple[Any, Any]:
        return functools.partial(function, fused=True), functools.partial(function, fused=False)

    def normed_back(scale_J: Any, x_TJ: Any, ct_x_TJ: Any) -> Any:
        return rms_norm.gradient(x_TJ, ct_x_TJ, x_TJ, scale_J, 1e-5, interpret)

    def normed_back_by_xla(scale_J: Any, x_TJ: Any, ct_x_TJ: Any) -> Any:
        dtype = x_TJ.dtype
        _, pull = jax.vjp(lambda x: (x, rms_norm.normed(x, scale_J, 1e-5, dtype)), x_TJ)
        return pull((ct_x_TJ, x_TJ))

    # Beside split inputs that of the narrow modes reads the core transposed; it is not timed.
    narrow = [] if split_in else [
        Pair("narrow modes: product", *by_each(inner), d, (dense,)),
        Pair("narrow modes: gradients of d", *by_each(inner_back), d, (dense, kernel_JO)),
    ]  # fmt: skip
    return [
        Pair("structured: W + dW", adapted, adapted_by_xla, d, (fast, kernel_JO)),
        Pair("structured: gradients of d", gradients, gradients_by_xla, d, (fast, x_TJ, ct_TO)),
        *narrow,
        Pair(
            "transform of a batch",
            lambda signs_J, x_TJ: hadamard.apply_to_rows(signs_J, x_TJ, interpret),
            lambda signs_J, x_TJ: hadamard.apply(signs_J.astype(x_TJ.dtype), x_TJ, 1),
            signs_J,
            (whole_TJ,),
        ),
        Pair(
            "RMSNorm, backward",
            normed_back,
            normed_back_by_xla,
            inputs.scale_J,
            (whole_TJ, whole_TJ[::-1]),
        ),
    ]


def seconds(function: Callable[..., Any], small: Any, large: Sequence[Any]) -> float:
    """Of one call among ``CALLS`` in a program."""
    each = [jax.tree.map(lambda array, k=k: array * (1 + 0.01 * k), small) for k in range(CALLS)]

    @jax.jit
    def program(each: Any, *large: Any) -> list[Any]:
        found: list[Any] = []
        for small in each:
            # One call after the other: XLA would read once for all what they share.
            _, small, large = jax.lax.optimization_barrier((found[-1:], small, large))
            found.append(function(small, *large))
        return found

    jax.block_until_ready(program(each, *large))

    def advance(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            found = program(each, *large)
        jax.block_until_ready(found)
        return time.perf_counter() - start

    return rounds.timed(advance, [1], 0, STEPS).step_seconds / CALLS


def difference(found: Any, expected: Any) -> float:
    """The norm of it as a part of what is expected, the largest of the arrays'."""
    parts = zip(*map(jax.tree.leaves, (found, expected)), strict=True)
    return max(
        float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)) for a, b in parts
    )


def table(scheme: Tensorization, tokens: Sequence[int], interpret: bool) -> Iterator[str]:
    """Markdown, a row as soon as it is measured."""
    yield "| | tokens | Pallas, ms | XLA, ms | XLA to Pallas | differs |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for count in tokens:
        exact = draw(scheme, count)
        with jax.default_matmul_precision("highest"):
            expected = [
                jax.jit(pair.xla)(pair.small, *pair.large) for pair in pairs(exact, interpret)
            ]
        for pair, right in zip(pairs(half(exact), interpret), expected, strict=True):
            given = (pair.small, *pair.large)
            differs = [difference(jax.jit(f)(*given), right) for f in (pair.kernel, pair.xla)]
            ours, xla = (seconds(f, pair.small, pair.large) for f in (pair.kernel, pair.xla))
            yield (
                f"| {pair.name} | {count:,} | {1e3 * ours:.3f} | {1e3 * xla:.3f} "
                f"| {xla / ours:.2f} | {differs[0]:.1e}, {differs[1]:.1e} |"
            )


def main() -> None:
    """Print the table."""
    parser = command.parser(main)
    parser.add_argument("--scheme", nargs="+", default=["4096|8x8x8x8"], help="of the kernels")
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192])
    args = parser.parse_args()
    schemes = list(map(Tensorization.parse, args.scheme))
    for scheme, tokens in itertools.product(schemes, args.tokens):
        if not cost_model.Network(scheme, "hadamard").is_structured(tokens):
            parser.error(
                f"the kernels do not take {str(scheme)!r} with {tokens} tokens. Give one wide mode "
                "and modes of the other side that make two groups of up to 128, such as "
                "4096|8x8x8x8, 2x43x8x16|4096 or 256|16x16; give a multiple of 32 tokens"
            )
    for scheme in schemes:
        if len(schemes) > 1:
            print(scheme)
        for line in table(scheme, args.tokens, interpret=dispatch.interpret()):
            print(line, flush=True)


if __name__ == "__main__":
    command.run(main)
