r"""A training step with soft caps and wide heads, beside the same shapes without them.

    python -m benchmarks.soft_caps --model=gemma-2-9b --layers=8 --rows=8 --length=1024
    python -m benchmarks.soft_caps --model=tiny --rows=2 --length=32 --steps=2

cuDNN's attention takes neither soft caps nor heads of more than 128 entries. The rows take away one
after the other: the caps of scores, the width of the heads (with as many entries in all), and the
windows. The last row so has the attention of a Llama. Each says whether the step calls cuDNN, the
bytes of a layer's scores where it does not, and the ratio of its time to the first row's.
Weights and tokens are random, the case is LoRA on q and v.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp

from benchmarks.cases import named
from benchmarks.steps import Bench, random_batch
from tera_jax.llama import LlamaConfig
from tera_jax.ops import dispatch
from train import command
from train.params.shapes import MODELS

CAPPED = [name for name, shape in MODELS.items() if "attn_logit_softcapping" in shape]
TINY = MODELS["gemma-2-9b"] | {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "sliding_window": 8,
}
_WIDEST = 128
"""Entries of a head that cuDNN takes."""


class Row(NamedTuple):
    """A step: which attention it has, and what it takes.

    Attributes:
        name: what was taken away.
        route: ``cuDNN`` or ``XLA``.
        score_bytes: of one layer's scores in float32, which XLA writes down.
        seconds: of a step.
        peak_bytes: as the compiled step plans.
        compile_seconds: with tracing.
    """

    name: str
    route: str
    score_bytes: int
    seconds: float
    peak_bytes: int
    compile_seconds: float


def variants(shape: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The shape, and with one more of its peculiarities taken away in each."""
    yield "as it is", shape
    shape = shape | {"attn_logit_softcapping": None}
    yield "without caps", shape
    times = max(1, shape["head_dim"] // _WIDEST)
    heads = ("num_attention_heads", "num_key_value_heads")
    shape = shape | {"head_dim": shape["head_dim"] // times}
    shape |= {name: shape[name] * times for name in heads}
    shape |= {"query_pre_attn_scalar": shape["head_dim"]}
    yield f"and heads of {shape['head_dim']}", shape
    yield "and windows", shape | {"sliding_window": None}


def measure(name: str, shape: dict[str, Any], rows: int, length: int, steps: int) -> Row:
    """One variant: lowered for its route, then compiled and timed."""
    dtype = jnp.bfloat16 if dispatch.on_gpu() else jnp.float32
    bench, batch = Bench(shape, dtype, steps), random_batch(rows, length, shape["vocab_size"])
    (case,) = named(["lora"], rows, length, "dots")
    cudnn = "cudnn" in bench.lower(case, batch).step.as_text()
    found = bench.measure(case, [batch])
    heads = LlamaConfig.from_hf(shape).num_heads
    return Row(
        name=name,
        route="cuDNN" if cudnn else "XLA",
        score_bytes=0 if cudnn else 4 * rows * heads * length**2,
        seconds=found.step_seconds,
        peak_bytes=found.peak_bytes,
        compile_seconds=found.compile_seconds,
    )


def table(found: list[Row]) -> Iterator[str]:
    """Markdown; the ratio is to the first row."""
    yield "| attention | route | scores of a layer, GiB | ms | ratio | peak GiB | compile s |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for row in found:
        cells = (
            row.name,
            row.route,
            f"{row.score_bytes / 2**30:.3f}",
            f"{row.seconds * 1e3:.1f}",
            f"{row.seconds / found[0].seconds:.3f}",
            f"{row.peak_bytes / 2**30:.2f}",
            f"{row.compile_seconds:.1f}",
        )
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure and print."""
    parser = command.parser(main)
    parser.add_argument("--model", choices=[*CAPPED, "tiny"], default="gemma-2-9b")
    parser.add_argument("--layers", type=int, help="so many layers only")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    args = parser.parse_args()
    shape = dict(TINY if args.model == "tiny" else MODELS[args.model])
    shape["num_hidden_layers"] = args.layers or shape["num_hidden_layers"]
    found = []
    for name, each in variants(shape):
        found.append(measure(name, each, args.rows, args.length, args.steps))
        print(found[-1], flush=True)
    print(*table(found), sep="\n")


if __name__ == "__main__":
    command.run(main)
