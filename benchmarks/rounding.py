r"""What rounding the trainable parameters to bfloat16 changes, as a store may keep them.

    python -m benchmarks.rounding

A small random model in float32, q and v adapted, and for each method several adapters away from the
start. The table compares the logits with d in float32 and with d rounded: the largest difference,
and the part of it in what the adapter changes in the base's logits at most. The last column counts
the positions at which another token is the most likely.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.mixed.cases import CASES, TINY, Base, adapter_of
from train import command


def measured(base: Base, case: str, scale: float, tokens_BL: jax.Array, count: int) -> str:
    """A row of the table."""
    adapter, params = adapter_of(case, base.model), base.stacked()
    frozen = base.frozen(adapter)
    first = jax.jit(adapter.init_d)(params, frozen)

    @jax.jit
    def logits(d: Any) -> jax.Array:
        variables = {"params": params, "frozen": frozen, "d": d}
        found, _ = adapter.apply(base.model, variables, tokens_BL)
        return found

    plain, _ = jax.jit(base.model.apply)({"params": params}, tokens_BL)
    change, lost, moved = 0.0, 0.0, 0
    for seed in range(count):
        key = jax.random.key(seed)
        d = jax.tree.map(lambda v, key=key: v + scale * jax.random.normal(key, v.shape), first)
        exact = logits(d)
        rounded = logits(jax.tree.map(lambda v: v.astype(jnp.bfloat16).astype(v.dtype), d))
        change = max(change, float(jnp.max(jnp.abs(exact - plain))))
        lost = max(lost, float(jnp.max(jnp.abs(exact - rounded))))
        moved += int(jnp.sum(exact.argmax(-1) != rounded.argmax(-1)))
    positions = count * tokens_BL.size
    cells = (
        case,
        f"{change:.3f}",
        f"{lost:.5f}",
        f"{lost / change:.2%}",
        f"{moved / positions:.2%}",
    )
    return "| " + " | ".join(cells) + " |"


def lines(args: argparse.Namespace) -> Iterator[str]:
    """The table."""
    base = Base(TINY, jnp.float32)
    shape = (args.rows, args.length)
    tokens_BL = jax.random.randint(jax.random.key(1), shape, 0, TINY.vocab_size, jnp.int32)
    yield "| method | the adapter changes logits by | rounding by | of that | other tokens |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for case in args.cases:
        yield measured(base, case, args.scale, tokens_BL, args.adapters)


def main() -> None:
    """Print the table."""
    parser = command.parser(main)
    cases = [case for case in CASES if case != "base"]
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    parser.add_argument("--adapters", type=int, default=8, help="of each method")
    parser.add_argument("--scale", type=float, default=0.05, help="of what d is moved by")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    for line in lines(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    command.run(main)
