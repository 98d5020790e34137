"""The flags of a study's records and runs, and the study that they describe."""

import argparse
import functools
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..command import setting
from . import schema
from .jobs import gpus

_NAMED = re.compile(r"([\w.-]+)=(.+)")
_SEVERAL = ("--data", "--train", "--validation", "--test", "--methods", "--rates", "--set")
"""Flags that take several values."""
_INTERRUPTED = 130
"""The status of a command that was interrupted, as shells have it."""


def spaced(argv: Sequence[str]) -> list[str]:
    """A command line with ``--data a b`` in place of ``--data=a b``.

    After an equals sign argparse takes one value alone.
    """
    parts = (text.split("=", 1) if text.partition("=")[0] in _SEVERAL else [text] for text in argv)
    return [*itertools.chain(*parts)]


def add(parser: argparse.ArgumentParser) -> None:
    """The flags of records and runs, which :func:`tree` reads."""
    one = parser.add_argument
    several = functools.partial(one, nargs="+", action="extend")
    several("--data", metavar="[NAME=]PATH", help="records of a task, or of several")
    several("--train", metavar="[NAME=]PATH", help="to train on: a path, or a slice as [:800]")
    several("--validation", metavar="[NAME=]PATH", help="likewise; by default of a shuffled split")
    several("--test", metavar="[NAME=]PATH", help="likewise")
    one(
        "--validation-rows", type=int, metavar="N", help="held out; by default a tenth, at most 500"
    )
    one("--test-rows", type=int, metavar="N", help="likewise")
    one("--split-seed", type=int, metavar="SEED", help="of that split")
    one("--seeds", type=int, metavar="N", help="runs at the chosen rate; 3 by default")
    one("--steps", type=int, metavar="N", help="of a run; 300 by default")
    one("--search-steps", type=int, metavar="N", help="of a short run of the search; half of them")
    one("--recipe", help="of every run; by default sft")
    several(
        "--set",
        type=setting,
        default=[],
        metavar="KEY=VALUE",
        help="other fields, such as data.prompt=plain model.quantize=nf4 loop.batch_size=8",
    )
    one("--workers", type=int, metavar="N", help="processes; by default one for each GPU")
    one("--retry", action="store_true", help="run again what failed before")


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
    if not gpus.found():
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


def devices(given: int | None) -> list[str]:
    """The devices of the processes: GPUs, or none where there is but one process."""
    found = gpus.found()
    if given is None:
        return found
    if given < 1:
        raise ValueError(f"--workers is {given}; give at least 1")
    return found[:given] if found else [""] * given


@contextmanager
def interruptible() -> Iterator[None]:
    """End the command with one line when it is interrupted: the finished runs are kept.

    Raises:
        SystemExit: in place of ``KeyboardInterrupt``.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        raise SystemExit(_INTERRUPTED) from None
