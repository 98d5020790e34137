r"""Every method on one small model and two real tasks, each at its own best learning rate.

    python -m benchmarks.methods --model=SmolLM2-135M-Instruct.gguf --gsm8k=gsm8k \
        --convai2=valid_self_original_no_cands.txt --output=methods.jsonl
    python -m benchmarks.methods --table --output=methods.jsonl
    python -m benchmarks.methods --figure=figures --output=methods.jsonl
    python -m benchmarks.methods --schemes --list --output=methods.jsonl

``--gsm8k`` is a directory with train.json, records of ``instruction`` and ``output``;
``--convai2`` a file in ParlAI's text format, split by dialogue. The study is that of
``configs/studies/smollm2.py``, run by the rooms of ``train.compare``: 300 steps of AdamW on batches
of 32. For each method and task the learning rate climbs on one grid, two values a decade. It stops
when the best on the validation part has worse neighbours on both sides. Two more seeds then run at
that rate, or as many as ``--seeds`` says in all. The test part is read only by the table. A seed is
that of the order of the data, of d, and of the frozen network.

``--figure`` draws trainable parameters against the test loss, as ``pareto.png`` and ``pareto.svg``:
for each method the variant that is best on the validation part, if it has all seeds.

``--schemes`` runs the paper's ablations (``configs/studies/schemes.py``) in place of the methods;
``--list`` says which of their runs are there.

Each finished run is a line of ``--output``, and is not run again: an interrupted study goes on.
With several GPUs a process is started for each.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study import OnBase, best_of_methods, on_base, progress, table
from benchmarks.variants import CHOICES, METHODS, SCHEMES, groups
from configs.studies import smollm2
from tera_jax.quantize import KINDS
from train import command
from train.studies import loop, schema
from train.studies.jobs import gpus
from train.studies.reports import pareto
from train.studies.variants import BASE, Variant

STEPS: int = smollm2.get_config().steps


def study(
    model: str,
    paths: dict[str, str],
    variants: Sequence[Variant],
    quantize: str = "none",
    seeds: int = 3,
) -> schema.Study:
    """The study of some variants.

    Args:
        model: of the base.
        paths: of the tasks' records, by the names of the study's file.
        variants: to compare.
        quantize: kind of the base.
        seeds: runs at the best rate.

    Raises:
        ValueError: for a task that the study's file does not have.
    """
    tree: dict[str, Any] = smollm2.get_config().to_dict()
    known = {task["name"]: dict(task) for task in tree["tasks"]}
    if paths.keys() - known.keys():
        raise ValueError(f"{sorted(paths.keys() - known.keys())} are none of {sorted(known)}")
    tree["settings"]["model"]["quantize"] = quantize
    tasks = [{**known[name], "path": path} for name, path in paths.items()]
    config = schema.build(
        {**tree, "model": model, "tasks": tasks, "rates": "climb", "seeds": seeds}
    )
    return schema.make(config, tuple(variants))


def main() -> None:
    """Run, or print the table."""
    parser = command.parser(main)
    parser.add_argument("--model", help="a SmolLM2-135M: GGUF file or directory")
    parser.add_argument("--gsm8k", help="directory of train.json")
    parser.add_argument("--convai2", help="ConvAI2's dialogues in ParlAI's text format")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines, one a run")
    parser.add_argument("--quantize", default="none", choices=("none", *KINDS), help="of the base")
    parser.add_argument("--choices", action="store_true", help="TeRA's open choices as well")
    parser.add_argument("--schemes", action="store_true", help="the paper's ablations instead")
    parser.add_argument("--list", action="store_true", help="say which of them are there, and end")
    parser.add_argument("--only", nargs="+", help="names of variants, such as lora")
    parser.add_argument("--tasks", nargs="+", help="GSM8K, ConvAI2 or both, the default")
    parser.add_argument("--seeds", type=int, default=3, help="runs at the best rate")
    parser.add_argument("--retry", action="store_true", help="run again what failed before")
    parser.add_argument("--table", action="store_true", help="print the table of --output and end")
    parser.add_argument("--figure", type=Path, metavar="DIR", help="draw --output there and end")
    args = parser.parse_args()
    results = OnBase(args.output, STEPS, args.quantize)
    if args.table:
        every = (*METHODS, *CHOICES, *SCHEMES)
        order = dict.fromkeys([BASE, *(variant.name for variant in every)])
        rows = [on_base(variant, kind) for kind in ("none", *KINDS) for variant in order]
        print(table(results.runs, rows))
        return
    if args.figure:
        names = [variant.name for variant in (*METHODS, *CHOICES)]
        found = best_of_methods(results.runs, names, STEPS, args.seeds)
        args.figure.mkdir(parents=True, exist_ok=True)
        print(*pareto.draw(found, args.figure), sep="\n")
        return
    known = (*METHODS, *CHOICES) if args.choices else METHODS
    known = SCHEMES if args.schemes else known
    names = [variant.name for variant in known]
    only = set(args.only or names)
    if only - {*names}:
        parser.error(f"{sorted(only - {*names})} are none of {sorted(names)}")
    chosen = [variant for variant in known if variant.name in only]
    if args.list:
        paths = dict.fromkeys(("GSM8K", "ConvAI2"), "-")
        listed = study("-", paths, chosen, args.quantize, args.seeds)
        print(progress(groups(), listed, results))
        return
    given = {"GSM8K": args.gsm8k and f"{args.gsm8k}/train.json", "ConvAI2": args.convai2}
    paths = {name: path for name, path in given.items() if name in (args.tasks or given)}
    for flag, value in {"model": args.model, **paths}.items():
        if not value:
            parser.error(f"--{flag.lower()} is missing")
    asked = study(args.model, paths, chosen, args.quantize, args.seeds)
    results.repair()
    if args.retry:
        results.forget_failures()
    outcome = loop.perform(asked, loop.read(asked), results, lambda _: None, gpus.found())
    if outcome.failed:
        raise SystemExit(f"failed: {'; '.join(outcome.failed)}")


if __name__ == "__main__":
    command.run(main)
