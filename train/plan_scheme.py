r"""Plan a scheme of TeRA: which one is best under a budget of parameters or bytes.

    python -m train.plan_scheme --model=llama-2-7b --budget=40000
    python -m train.plan_scheme --model=path/to/model --budget-bytes=160KB --output=plan
    python -m train.plan_scheme --model=path/to/model --budget=40000 --data mine.jsonl \
        --output=runs/compare

Without data the order is by rules ("rule"), of which docs/planning.md says what they are worth.
With data the first --rows schemes are trained by successive halving ("measured"); each run is a
line of results.jsonl as of train.compare, and one that is there is not run again.

--output gets plan.csv, and winner.py, a file for --config of train.main.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import jax

from tera_jax import atomic

from . import command
from .config import flag
from .params import shapes
from .planning import budget, candidates, rules, table, winner
from .planning.candidates import METHOD
from .planning.probe import Probe, order, usual_rate
from .studies import command_line, schema
from .studies.schema import Study
from .training import lock

PLAN, WINNER = "plan.csv", "winner.py"
"""In the directory of ``--output``."""
_COMPARED = (
    *("train", "validation", "test", "validation_rows", "test_rows", "split_seed", "rates"),
    *("seeds", "steps", "search_steps", "workers"),
)
"""Flags of runs, which need data."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print a plan, and write it."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(command_line.spaced(argv))
    limit = budget.parse(args.budget, args.budget_bytes)
    _require(args)
    devices = command_line.devices(args.workers) if args.data else []
    if len(devices) > 1:
        jax.config.update("jax_platforms", "cpu")  # the GPUs belong to the processes of the runs
    config, found = shapes.sizes(args.model)
    given = _targets(args.targets)
    layouts = candidates.layouts(config, found, given)
    within = budget.within(layouts, limit)
    ranked = rules.ranked(candidates.candidates(within, args.init))
    picked = rules.select(ranked, args.rows)
    study = _study(args, [ranked[i].variant.canonical for i in picked]) if args.data else None
    with lock.held(args.output, "--output") if args.output else nullcontext():
        told = f"{command.named('plan_scheme')} {shlex.join(argv)}"
        measured: dict[str, Probe] = {}
        if study is not None:
            from .planning import probes  # which imports what trains, for seconds

            with command_line.interruptible():
                measured = probes.run(study, args.output, told, devices, args.retry)
        # After the runs, whose errors about records would otherwise wait for the ranks.
        rows = [
            table.row(place + 1, ranked[place], found, args.tokens, args.device, args.exact)
            for place in picked
        ]
        rows = _by_loss(rows, measured)
        print(f"{len(ranked):,} schemes within {limit}; the first {len(rows)}, unlike ones:")
        print(table.text(rows, args.exact))
        print(_note(args, study))
        if args.output:
            args.output.mkdir(parents=True, exist_ok=True)
            atomic.write_text(args.output / PLAN, table.as_csv(rows, args.exact))
            atomic.write_text(args.output / WINNER, _winner(args, study, rows[0]))
            print(f"{args.output / PLAN}, {args.output / WINNER}")


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(main)
    add = parser.add_argument
    add("--model", required=True, help="a name that train.params has, a directory, a GGUF file")
    add("--budget", metavar="N", help="trainable parameters at most")
    add("--budget-bytes", metavar="SIZE", help="of the exported adapter at most, such as 80KB")
    add("--output", type=Path, metavar="DIR", help="of plan.csv and winner.py, and of the runs")
    add("--method", default=METHOD, help="tera, the one whose schemes are planned")
    add("--targets", nargs="+", metavar="TARGETS", help="placements, such as v_proj+o_proj")
    inits = candidates.INITS
    add("--init", nargs="+", choices=inits, default=inits, help="kinds of factors")
    add("--rows", type=int, default=12, metavar="N", help="schemes that are shown, or trained")
    add("--tokens", type=int, default=1024, help="of a batch, for the cost model")
    add("--device", default="H100", help="for the cost model, such as A100, H200 or cpu")
    add("--exact", action="store_true", help="ranks of kernels at full size; minutes for 7B")
    add("--rates", nargs="+", help="learning rates that each run tries; by default the recipe's")
    command_line.add(parser)
    return parser


def _require(args: argparse.Namespace) -> None:
    """Raise ``ValueError`` for flags that do not go together."""
    if args.method != METHOD:
        raise ValueError(
            f"--method={args.method} has no schemes to plan; leave it out for {METHOD}, and "
            f"compare methods with {command.named('compare')}"
        )
    for name in ("rows", "tokens"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name}={getattr(args, name)}; give at least 1")
    if not args.data:
        for name in (*_COMPARED, "set", "retry"):
            if getattr(args, name):
                raise ValueError(
                    f"--{name.replace('_', '-')} is of the runs on data; give --data too, or "
                    "leave it out"
                )
        return
    if args.output is None:
        raise ValueError("--data needs --output=DIR, where the results of the runs are kept")
    if args.model in shapes.MODELS:
        raise ValueError(
            f"--model={args.model} is a name of sizes without weights, and --data needs weights; "
            "give a directory or a GGUF file"
        )


def _targets(given: Sequence[str] | None) -> list[tuple[str, ...]] | None:
    return None if given is None else [tuple(text.split("+")) for text in given]


def _study(args: argparse.Namespace, methods: Sequence[str]) -> Study:
    """The study whose methods are the schemes."""
    args.methods, args.config, args.baseline = list(methods), None, None
    tree = command_line.tree(args)
    tree.setdefault("rates", [usual_rate(args.recipe or "sft")])
    if isinstance(tree["rates"], str):
        raise ValueError(
            f"--rates {tree['rates']}: give numbers; the short runs search schemes, not rates"
        )
    return schema.make(schema.build(tree))


def _by_loss(rows: Sequence[table.Row], measured: dict[str, Probe]) -> list[table.Row]:
    names = {row.place: row.candidate.variant.canonical for row in rows}
    found = [row._replace(probe=measured.get(names[row.place])) for row in rows]
    return sorted(found, key=lambda row: order(measured, names[row.place]))


def _note(args: argparse.Namespace, study: Study | None) -> str:
    """What the columns mean."""
    ranks = "at full size" if args.exact else "of a proxy where a side is longer than the head says"
    order = "by rules from another model (docs/planning.md), which measure nothing here"
    if study is not None:
        order = "by validation loss, the longest runs first; '-' in spread: one seed"
    return (
        f"order: {order}\nranks: at a random d, {ranks}; the least over the adapted kernels\n"
        f"ms: what the cost model adds to a step of {args.tokens:,} tokens on {args.device}"
    )


def _winner(args: argparse.Namespace, study: Study | None, first: table.Row) -> str:
    """The file that trains the first row."""
    variant, limit = first.candidate.variant, budget.parse(args.budget, args.budget_bytes)
    told = f"{command.named('main')} --config={args.output / WINNER} --workdir=runs/planned"
    if study is not None and first.probe is not None:
        rate = first.probe.rates[study.config.tasks[0].name]
        title = f"The scheme of least validation loss in short runs within {limit}."
        return winner.source(winner.of_study(study, variant, rate), title, told)
    title = f"The first scheme by the rules of docs/planning.md within {limit}."
    model = args.model if Path(args.model).exists() else None
    tree = flag.recipe(args.recipe or "sft", METHOD).to_dict()
    more = " --config.data.path=DATA" + ("" if model else " --config.model.path=MODEL")
    return winner.source(winner.of_recipe(tree, variant, model), title, told + more)


def cli() -> None:
    """The command, on the arguments of the process."""
    command.run(main)


if __name__ == "__main__":
    cli()
