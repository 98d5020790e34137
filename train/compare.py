r"""Compare fine-tuning methods on one model and any data, each at its own best learning rate.

    python -m train.compare --model=path/to/model --data mine.jsonl \
        --methods tera lora vera:targets=v_proj+o_proj --output=runs/compare
    python -m train.compare --config=smollm2 --model=path/to/model \
        --data GSM8K=train.json ConvAI2=dialogues.txt --output=runs/compare
    python -m train.compare --report --output=runs/compare

A method is METHOD:FIELD=VALUE,...; a + stands between the values of a field with several, and
``targets`` are the layers. ``--data`` takes one task or more, each as NAME=PATH or as a path alone.
The validation part chooses the learning rate, the test part is read by the report alone.

Each finished run is a line of results.jsonl, and the same command goes on after an interruption.
With several GPUs a process is started for each. docs/comparing.md explains the report.
"""

import argparse
import functools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from . import command
from .studies import command_line, loop, schema
from .studies.reports import report
from .training import lock


def main(argv: Sequence[str] | None = None) -> None:
    """Run a study, or report on one."""
    args = _parser().parse_args(command_line.spaced(sys.argv[1:] if argv is None else argv))
    if args.report:
        print(report.markdown(report.write(args.output, args.baseline)))
        return
    study = schema.make(schema.build(command_line.tree(args)))
    devices = command_line.devices(args.workers)
    given = shlex.join(sys.argv[1:] if argv is None else argv)
    with lock.held(args.output, "--output"):
        with command_line.interruptible():
            outcome = loop.run(
                study, args.output, f"{command.named('compare')} {given}", devices, args.retry
            )
        found = report.write(args.output, args.baseline)
    print(report.markdown(found))
    if outcome.failed:
        raise SystemExit(f"failed: {'; '.join(outcome.failed)}")


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(main)
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="of the results and the report")
    add("--report", action="store_true", help="write the report of --output again, and end")
    add("--config", metavar="FILE", help="a study's file, or its name, such as smollm2")
    add("--model", help="the base: a HF directory, a GGUF file, or a hub name")
    several = functools.partial(add, nargs="+", action="extend")
    several("--methods", metavar="METHOD", help="such as lora:rank=4,targets=v_proj+o_proj")
    add("--baseline", metavar="METHOD", help="of the significance; by default the first lora")
    add("--rates", nargs="+", help="auto, climb, or learning rates to try")
    command_line.add(parser)
    return parser


def cli() -> None:
    """The command, on the arguments of the process."""
    command.run(main)


if __name__ == "__main__":
    cli()
