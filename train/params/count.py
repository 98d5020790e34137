"""Count trainable parameters by shapes alone: no weights, no device memory.

    python -m train.params --model=llama-2-7b --method=tera
    python -m train.params --model=llama-3-8b --method=lora --set rank=32 --targets q_proj v_proj
    python -m train.params --model=llama-3-70b --mesh=fsdp=8
    python -m train.params --paper

``--mesh`` prints the bytes that each device of a mesh holds, for meshes of any size. ``--compile``
compiles the training step for it too, on as many fake CPU devices, and prints its memory.

``--paper`` prints every percentage of the TeRA paper's Tables 2, 3, 4, 6, 7 and 10 beside ours.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from tera_jax.llama.model import REMAT
from tera_jax.methods import TABLE
from tera_jax.methods.base import LinearMethod

from .. import command
from . import plan
from .paper import PRINTED, PaperFigure
from .shapes import parts


class Count(NamedTuple):
    """Of one method on one model."""

    model: str
    method: str
    base: int
    trained: int
    percent: float
    bytes_float32: int
    bytes_bfloat16: int
    max_rank: dict[str, int]


def count(
    model: str, method: str, settings: dict[str, Any], targets: Sequence[str] | None = None
) -> Count:
    """Trainable parameters of a method on a model.

    Args:
        model: as :func:`train.params.shapes.sizes` takes it.
        method: a row of ``tera_jax.methods.TABLE``.
        settings: of its configuration.
        targets: patterns of layers; those of the method when None.

    Returns:
        The percentage is of the base's and the trainable parameters together, as the paper counts;
        ``max_rank`` is the largest rank that each layer's update can have.

    Raises:
        ValueError: for an unknown model, method, setting or target.
    """
    _, adapter, params, _, d = parts(model, method, settings, targets)
    base, trained = _size(params), _size(d)
    ranks = {}
    if isinstance(adapter.method, LinearMethod):
        ranks = {layer.name: adapter.method.max_rank(layer) for layer in adapter.layers}
    return Count(
        model,
        method,
        base,
        trained,
        100.0 if adapter.trains_all else 100 * trained / (base + trained),
        4 * trained,
        2 * trained,
        ranks,
    )


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


class Check(NamedTuple):
    """A printed percentage beside ours."""

    printed: PaperFigure
    trained: int
    percent: float
    met: bool


def check_paper() -> list[Check]:
    """Every percentage that the paper prints, computed."""
    checks = []
    for row in PRINTED:
        ours = count(row.model, row.method, row.settings, row.targets)
        digits = len(row.percent.partition(".")[2])
        met = f"{ours.percent:.{digits}f}" == row.percent
        checks.append(Check(row, ours.trained, ours.percent, met))
    return checks


def paper_table(checks: Sequence[Check]) -> str:
    """A line each, and a line that counts."""
    lines = [
        f"{'table':<6}{'model':<12}{'method':<16}{'trained':>14}{'ours %':>10}{'paper %':>9}  "
    ]
    for row, trained, percent, met in checks:
        verdict = "met" if met else f"known exception: {row.exception}" if row.exception else "NOT"
        lines.append(
            f"{row.table:<6}{row.model:<12}{row.row:<16}{trained:>14,}{percent:>10.5f}"
            f"{row.percent:>9}  {verdict}"
        )
    count_met = sum(check.met for check in checks)
    known = sum(not check.met and bool(check.printed.exception) for check in checks)
    lines.append(f"{count_met} of {len(checks)} met, {known} known exception")
    return "\n".join(lines)


def table(counted: Count) -> str:
    """The count, a line a fact."""
    facts = {
        "model": f"{counted.model}, {counted.base:,} parameters",
        "method": counted.method,
        "trained": f"{counted.trained:,}",
        "per cent": f"{counted.percent:.4f}",
        "adapter": f"{counted.bytes_float32:,} bytes in float32, "
        f"{counted.bytes_bfloat16:,} in bfloat16",
        **{f"rank of {name}": f"at most {rank:,}" for name, rank in counted.max_rank.items()},
    }
    width = max(map(len, facts)) + 2
    return "\n".join(f"{name:<{width}}{fact}" for name, fact in facts.items())


def main(argv: Sequence[str] | None = None) -> None:
    """Print a count, or the paper's."""
    parser = command.parser(main, "train.params")
    parser.add_argument("--model", default="llama-2-7b", help="a name, a directory or a GGUF file")
    parser.add_argument("--method", default="tera", help=", ".join(sorted(TABLE)))
    parser.add_argument(
        "--set",
        type=command.setting,
        nargs="*",
        default=[],
        help="fields of the method, as rank=32",
    )
    parser.add_argument("--targets", nargs="*", help="patterns; by default the method's own")
    parser.add_argument("--mesh", help="bytes of each device, as data=4,fsdp=8")
    parser.add_argument(
        "--compile", action="store_true", help="with --mesh: the step's memory, and what it gathers"
    )
    parser.add_argument("--rows", type=int, help="of a batch; by default one a shard of it")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a row")
    parser.add_argument("--remat", choices=sorted(REMAT), default="full")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--paper", action="store_true", help="check the paper's percentages")
    args = parser.parse_args(argv)
    if args.paper:
        checks = check_paper()
        if args.json:
            print(
                json.dumps(
                    [
                        {**c.printed._asdict(), **c._asdict(), "printed": c.printed.percent}
                        for c in checks
                    ],
                    indent=2,
                )
            )
        else:
            print(paper_table(checks))
        return
    if args.compile and args.mesh is None:
        raise ValueError("--compile needs a --mesh, such as --mesh=fsdp=8")
    if args.mesh is not None:
        given = parts(args.model, args.method, dict(args.set), args.targets)
        planned, found = plan.plan(given, args.mesh), None
        if args.compile:
            found = plan.compiled(given, args.mesh, args.rows, args.length, args.remat)
        if args.json:
            compiled = None if found is None else found._asdict()
            print(json.dumps({**planned._asdict(), "compiled": compiled}, indent=2))
        else:
            print(plan.table(planned))
            if found is not None:
                print(plan.compiled_table(found))
        return
    counted = count(args.model, args.method, dict(args.set), args.targets)
    print(json.dumps(counted._asdict(), indent=2) if args.json else table(counted))


def cli() -> None:
    """The command, on the arguments of the process."""
    command.run(main)


if __name__ == "__main__":
    cli()
