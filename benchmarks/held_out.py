r"""The third task of the study of methods, held out from all choices: commonsense records.

    python -m benchmarks.held_out --draw --commonsense=commonsense --records=records.json.gz
    python -m benchmarks.held_out --model=SmolLM2-135M-Instruct.gguf --records=records.json.gz \
        --output=held_out.jsonl
    python -m benchmarks.held_out --table --output=held_out.jsonl

``--draw`` writes the records of the study into one small file. There are 9,600 to train on, which
are 300 batches of 32, and 400 of the same file for validation. The tests are 100 records of the
published test file of each of the eight sub-tasks. All are the first of a random order.
``--commonsense`` is a directory with ``<sub-task>/test.json`` and the training file.

A run is that of ``configs/studies/smollm2.py`` with the template of ``configs/commonsense.py``.
No learning rate is searched here: a method takes the rates that won on GSM8K and on ConvAI2, in
``--results``. Where they differ, both run with the first seed, and the validation records choose.
The other seeds run at that rate.

Each run is measured on each sub-task by the NLL of its responses, and by the share of questions
whose right text is the most likely one: ``--score=texts`` of docs/evaluation.md. Each finished run
is a line of ``--output``, and is not run again. With several GPUs start a process for each, with
``CUDA_VISIBLE_DEVICES`` and other names for ``--only``; all may have the same ``--output``.
"""

import argparse
import functools
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.commonsense import drawn, rows, runs, scores, tables
from benchmarks.commonsense.drawn import Drawn, Sizes
from benchmarks.commonsense.tables import Pair
from benchmarks.variants import CHOICES, METHODS
from tera_jax.llama import load_tokenizer
from train import command
from train.studies import lines
from train.studies.jobs import job, trainer
from train.studies.results import Results
from train.studies.variants import BASE, PLAIN

RESULTS = Path(__file__).parent / "results" / "methods.jsonl"
KNOWN = {variant.name: variant for variant in (*METHODS, *CHOICES)}
ALL_SEVEN = "unilora length=36840 targets=q_proj+k_proj+v_proj+o_proj+gate_proj+up_proj+down_proj"
DEFAULT = (
    BASE,
    "lora",
    "hira",
    "vera targets=v_proj+o_proj",
    ALL_SEVEN,
    "tera",
    "tera init=orthogonal",
    "tera init=orthogonal targets=v_proj+o_proj",
    "tera_iden",
)
PAIRS = (Pair("tera init=orthogonal", "tera"),)


def main() -> None:
    """Draw, run, or print the table."""
    parser = command.parser(main)
    parser.add_argument("--draw", action="store_true", help="write --records and end")
    parser.add_argument("--commonsense", type=Path, help="directory of <sub-task>/test.json")
    parser.add_argument("--train", type=Path, help="training file, if not the one of --commonsense")
    parser.add_argument("--train-records", type=int, default=9600, help="of a draw")
    parser.add_argument("--validation-records", type=int, default=400, help="of a draw")
    parser.add_argument("--test-records", type=int, default=100, help="of a draw, a sub-task")
    parser.add_argument("--records", type=Path, help="file of the drawn records")
    parser.add_argument("--model", help="a SmolLM2-135M: GGUF file or directory")
    parser.add_argument("--output", type=Path, help="JSON lines, one a run")
    parser.add_argument("--results", type=Path, nargs="+", default=[RESULTS], help="for the rates")
    parser.add_argument("--only", nargs="+", default=[*DEFAULT], help="names, such as lora or base")
    parser.add_argument("--seeds", type=int, default=3, help="at the chosen rate")
    parser.add_argument("--steps", type=int, default=runs.STEPS, help="of a run")
    parser.add_argument("--table", action="store_true", help="print the tables of --output and end")
    parser.add_argument("--baseline", default=ALL_SEVEN, help="of the table's comparisons")
    parser.add_argument("--pair", nargs=2, action="append", help="a further one: METHOD BASELINE")
    args = parser.parse_args()
    _require(parser, args)
    if args.draw:
        _draw(args)
    elif args.table:
        pairs = [Pair(*pair) for pair in args.pair or PAIRS]
        print(tables.markdown(rows.read(args.output), [BASE, *KNOWN], args.baseline, pairs))
    elif failed := _run(args, drawn.read(args.records)):
        raise SystemExit(f"failed: {'; '.join(failed)}")


def _require(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a message for a flag that is missing or does not fit."""
    needed = ["output"] if args.table else ["model", "records", "output"]
    for flag in ["commonsense", "records"] if args.draw else needed:
        if not getattr(args, flag):
            parser.error(f"--{flag} is missing")
    if unknown := sorted({*args.only} - {BASE, *KNOWN}):
        parser.error(f"{unknown} are none of {sorted([BASE, *KNOWN])}")
    for flag in ("seeds", "steps"):
        if getattr(args, flag) < 1:
            parser.error(f"--{flag}={getattr(args, flag)} must be at least 1")


def _draw(args: argparse.Namespace) -> None:
    sizes = Sizes(args.train_records, args.validation_records, args.test_records)
    found = drawn.draw(args.train or _training_file(args.commonsense), args.commonsense, sizes)
    drawn.write(args.records, found)
    counts = ", ".join(f"{name} {count:,}" for name, count in found.counts.items())
    print(f"{args.records}: {args.records.stat().st_size:,} bytes, {found.identity}: {counts}")


def _training_file(directory: Path) -> Path:
    """The only file of a directory that may be it.

    Raises:
        FileNotFoundError: when there is none, or more than one.
    """
    found = [*directory.glob("*.jsonl.gz"), *directory.glob("train.json")]
    if len(found) != 1:
        raise FileNotFoundError(
            f"{directory} has {len(found)} files *.jsonl.gz or train.json, not one; name the "
            "training file with --train"
        )
    return found[0]


def _run(args: argparse.Namespace, records: Drawn) -> list[str]:
    """Make the runs that are not there, and say what failed."""
    names = list(dict.fromkeys(args.only))
    variants = [KNOWN[name] for name in names if name != BASE]
    done = rows.read(args.output)
    rows.require_same(args.output, done, records=records.identity, steps=args.steps)
    tried = _rates(args, [variant.name for variant in variants])
    study = runs.study(args.model, str(args.records), records, variants, args.steps)
    config = study.run(PLAIN, study.task(runs.NAME))
    tokenizer = load_tokenizer(args.model)
    base = trainer.load(config.model)
    rows.require_same(args.output, done, base=base.fingerprint)
    lines.repair(args.output)
    limit = base.model.config.max_position_embeddings
    parts, tests = scores.prepare(records, tokenizer, config.data, limit)
    print(trainer.describe(base), flush=True)
    failed = []
    with trainer.in_mesh(base):
        for name in names:
            make = _appending(args, base, study, name, parts, tests, records)
            own = [row for row in done if row.variant == name]
            try:
                runs.follow(tried[name], 1 if name == BASE else args.seeds, own, make)
            except Exception as error:
                if not command.is_user_error(error):
                    traceback.print_exc()
                failed.append(f"{name} ({job.reason(error)})")
                print(f"{name:<20} failed: {job.reason(error)}", flush=True)
    return failed


def _rates(args: argparse.Namespace, names: Sequence[str]) -> dict[str, list[float]]:
    """Of each variant; the base has none, which is written as 0."""
    known = [run for file in args.results for run in Results(file, runs.STEPS).runs]
    return {BASE: [0.0], **{name: runs.rates(name, known) for name in names}}


def _appending(args: argparse.Namespace, *of_maker: Any) -> Callable[[float, int], rows.Row]:
    """Makes a run and keeps it; the first one makes what makes them."""
    maker = functools.cache(lambda: runs.Maker(*of_maker))

    def make(rate: float, seed: int) -> rows.Row:
        row = maker()(rate, seed)
        rows.append(args.output, row)
        return row

    return make


if __name__ == "__main__":
    command.run(main)
