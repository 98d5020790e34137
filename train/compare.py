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
import itertools
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import command
from .params.count import setting
from .studies import loop, report, schema, workers
from .training import lock

_NAMED = re.compile(r"([\w.-]+)=(.+)")
_INTERRUPTED = 130
_SEVERAL = ("--data", "--train", "--validation", "--test", "--methods", "--rates", "--set")
"""Flags that take several values."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a study, or report on one."""
    args = _parser().parse_args(spaced(sys.argv[1:] if argv is None else argv))
    if args.report:
        print(report.markdown(report.write(args.output, args.baseline)))
        return
    study = schema.make(schema.build(tree(args)))
    devices = devices_of(args.workers)
    given = shlex.join(sys.argv[1:] if argv is None else argv)
    with lock.held(args.output, "--output"):
        try:
            outcome = loop.run(
                study, args.output, f"{command.named('compare')} {given}", devices, args.retry
            )
        except KeyboardInterrupt:
            print("interrupted: the same command goes on", file=sys.stderr)
            raise SystemExit(_INTERRUPTED) from None
        found = report.write(args.output, args.baseline)
    print(report.markdown(found))
    if outcome.failed:
        raise SystemExit(f"failed: {'; '.join(outcome.failed)}")


def spaced(argv: Sequence[str]) -> list[str]:
    """A command line with ``--data a b`` in place of ``--data=a b``.

    After an equals sign argparse takes one value alone.
    """
    parts = (text.split("=", 1) if text.partition("=")[0] in _SEVERAL else [text] for text in argv)
    return [*itertools.chain(*parts)]


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
    add_run_flags(parser)
    return parser


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of records and runs, which :func:`tree` reads."""
    add = parser.add_argument
    several = functools.partial(add, nargs="+", action="extend")
    several("--data", metavar="[NAME=]PATH", help="records of a task, or of several")
    several("--train", metavar="[NAME=]PATH", help="to train on: a path, or a slice as [:800]")
    several("--validation", metavar="[NAME=]PATH", help="likewise; by default of a shuffled split")
    several("--test", metavar="[NAME=]PATH", help="likewise")
    add(
        "--validation-rows", type=int, metavar="N", help="held out; by default a tenth, at most 500"
    )
    add("--test-rows", type=int, metavar="N", help="likewise")
    add("--split-seed", type=int, metavar="SEED", help="of that split")
    add("--seeds", type=int, metavar="N", help="runs at the chosen rate; 3 by default")
    add("--steps", type=int, metavar="N", help="of a run; 300 by default")
    add("--search-steps", type=int, metavar="N", help="of a short run of the search; half of them")
    add("--recipe", help="of every run; by default sft")
    several(
        "--set",
        type=setting,
        default=[],
        metavar="KEY=VALUE",
        help="other fields, such as data.prompt=plain model.quantize=nf4 loop.batch_size=8",
    )
    add("--workers", type=int, metavar="N", help="processes; by default one for each GPU")
    add("--retry", action="store_true", help="run again what failed before")


def tree(args: argparse.Namespace) -> dict[str, Any]:
    """The study of a file with what the flags change, as plain values.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a flag that is missing, or names a task that there is not.
    """
    found = schema.load(args.config) if args.config else {}
    for name in ("model", "baseline", "seeds", "steps", "search_steps", "recipe", "methods"):
        if (value := getattr(args, name)) is not None:
            found[name] = value
    if args.rates is not None:
        found["rates"] = _rates(args.rates)
    found["tasks"] = _tasks(args, found.get("tasks", []))
    for name in ("model", "methods"):
        if not found.get(name):
            raise ValueError(f"--{name} is missing; give it, or a --config that has it")
    settings = {section: dict(each) for section, each in found.get("settings", {}).items()}
    if not workers.gpus():
        settings.setdefault("model", {}).setdefault("dtype", "float32")
    for key, value in args.set:
        section, dot, field = key.partition(".")
        if not dot:
            raise ValueError(f"--set {key}: give section and field, such as data.prompt=plain")
        settings.setdefault(section, {})[field] = value
    return {**found, "settings": settings}


def _rates(given: Sequence[str]) -> str | list[float]:
    if len(given) == 1 and given[0] in ("auto", "climb"):
        return given[0]
    try:
        return [float(rate) for rate in given]
    except ValueError:
        raise ValueError(f"--rates {' '.join(given)}: give auto, climb, or numbers") from None


def _tasks(args: argparse.Namespace, known: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tasks of a file and of the flags; a flag may name one of the file."""
    tasks = {task.get("name", ""): dict(task) for task in known}
    given: set[str] = set()
    for text in args.data or ():
        name, path = _named(text)
        name = name or _stem(path)
        if name in given:
            raise ValueError(f"--data has two tasks {name!r}; name them apart, as NAME=PATH")
        given.add(name)
        tasks.setdefault(name, {"name": name})["path"] = path
    missing = [name for name, task in tasks.items() if not task.get("path")]
    if missing or not tasks:
        names = " ".join(f"{name}=PATH" for name in missing) or "PATH"
        raise ValueError(f"--data is missing; give --data {names}")
    for part in ("train", "validation", "test"):
        for text in getattr(args, part) or ():
            name, path = _named(text)
            if name is None and len(tasks) == 1:
                (name,) = tasks
            if name not in tasks:
                raise ValueError(
                    f"--{part} {text}: name the task, as NAME=PATH; there are {', '.join(tasks)}"
                )
            tasks[name][part] = path
    for field in ("validation_rows", "test_rows", "split_seed"):
        if (value := getattr(args, field)) is not None:
            for task in tasks.values():
                task[field] = value
    return list(tasks.values())


def _named(text: str) -> tuple[str | None, str]:
    """A name and a path; a path that is there has no name."""
    match = _NAMED.fullmatch(text)
    return (None, text) if match is None or Path(text).exists() else (match[1], match[2])


def _stem(path: str) -> str:
    """The name of a task by its path: ``mine`` of ``data/mine.jsonl[:80]``."""
    name = Path(re.sub(r"\[-?\d*:-?\d*\]$", "", path.partition(",")[0])).name
    return re.sub(r"[^\w.-]", "-", name.partition(".")[0]) or "data"


def devices_of(given: int | None) -> list[str]:
    """The devices of the processes: GPUs, or none where there is but one process."""
    found = workers.gpus()
    if given is None:
        return found
    if given < 1:
        raise ValueError(f"--workers is {given}; give at least 1")
    return found[:given] if found else [""] * given


def cli() -> None:
    """The command, on the arguments of the process."""
    command.run(main)


if __name__ == "__main__":
    cli()
