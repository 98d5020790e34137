"""Run a command of a page in this process, or only let its parser read it."""

import argparse
import contextlib
import copy
import importlib
import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from absl import flags

from benchmarks.cases import FROZEN, named
from tera_jax.methods import TABLE
from tests.pages.calls import Call
from tests.pages.table import WRITTEN
from train import main
from train.config import flag, parse

ROOT = Path(__file__).parents[2]
DOTS = "..."
"""In a page it stands for flags of the reader's."""


def run(module: str, arguments: Sequence[str]) -> None:
    """What ``python -m`` does with a module of the application or the benchmarks.

    Raises:
        RuntimeError: when it ends with another status than 0.
    """
    with mock.patch.object(sys, "argv", [module, *arguments]):
        try:
            main.cli() if module == "train.main" else _main(module)()
        except SystemExit as end:
            if end.code:
                command = " ".join([module, *arguments])
                raise RuntimeError(f"{command} ended with {end.code}") from end
        finally:
            if module == "train.main":
                _forget()


def _main(module: str):
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"there is no module {module}"
    inner = f"{module}.__main__" if spec.submodule_search_locations else module
    found = importlib.import_module(inner)
    return getattr(found, "main", None) or found.cli


def _forget() -> None:
    """Take the flags of a configuration's fields away: the next one defines them again."""
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


def check(call: Call) -> None:
    """Raise for a flag, a target, a path or an extra that does not exist."""
    if call.module == "pytest":
        for path in (word for word in call.arguments if "/" in word):
            assert (ROOT / path).exists(), f"{path} does not exist"
    elif call.module == "train.main":
        _check_config(call.arguments)
    elif call.words[0] == "python" and call.module is None:
        assert (ROOT / call.words[1]).is_file(), f"{call.words[1]} does not exist"
    elif call.module is not None:
        _check_arguments(call.module, [word for word in call.arguments if word != DOTS])
    else:
        _OTHERS[call.words[0]](call.arguments)


class _Read(BaseException):
    """The parser has read all arguments; its first one is what they say."""


def _check_arguments(module: str, arguments: Sequence[str]) -> None:
    read = argparse.ArgumentParser.parse_known_args

    def read_alone(self, args=None, namespace=None):
        found, unknown = read(self, args, namespace)
        if module == "train.many":  # the rest are fields of the configuration
            given = (f"--config={found.config}", "--config.model.path=m", "--config.data.path=d")
            _check_config([*given, *unknown])
            raise _Read(found)
        if unknown and module != "train.data":  # which hands them on
            self.error(f"unknown arguments {unknown}")
        raise _Read(found)

    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", read_alone):
        try:
            run(module, arguments)
        except _Read as end:
            if module == "benchmarks.speed":
                _check_cases(end.args[0])
            return
    raise AssertionError(f"{module} has read no arguments")


def _check_cases(found: argparse.Namespace) -> None:
    """The names of methods and options, which are not choices of the parser."""
    for case in named(found.cases or (), found.rows, found.length, found.remat):
        assert case.method in {FROZEN, *TABLE}, f"there is no method {case.method}"


def _check_config(arguments: Sequence[str]) -> None:
    """The flags of ``train.main``, and the values that the configuration gets by them."""
    values = flags.FlagValues()
    words = [each for word in arguments for each in WRITTEN.get(word, (word,))]
    given = [word for word in words if DOTS not in word]
    if not any(word.startswith("--config=") for word in given):
        given = ["--config=sft", *given]
    given = ["train.main", *given]
    with contextlib.chdir(ROOT):
        holder = flag.define("config", values, given)
        for name in ("print-config", "workdir", "coordinator", "num_processes", "process_id"):
            values[name] = copy.deepcopy(flags.FLAGS[name])
        values(given)
        config = holder.value
        if DOTS in " ".join(arguments):
            config.model.path = config.model.path or "a model"
            config.data.path = config.data.path or "a file"
        parse(config)


def _check_make(targets: Sequence[str]) -> None:
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(targets) <= set(known), f"make {targets}: there are {known}"


def _check_pip(arguments: Sequence[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in arguments:
        extras = re.findall(r"\[(.*)\]", word)
        names = {name for extra in extras for name in extra.split(",")}
        assert names <= set(project["optional-dependencies"]), f"{word}: no such extra"


def _check_bash(arguments: Sequence[str]) -> None:
    exec(re.findall(r'python -c "(.*)"', arguments[1])[0], {})


def _check_curl(arguments: Sequence[str]) -> None:
    json.loads(arguments[arguments.index("-d") + 1])


def _check_lm_eval(arguments: Sequence[str]) -> None:
    """The harness's own parser reads them."""
    from lm_eval._cli.harness import HarnessCLI

    with mock.patch.object(sys, "argv", ["lm_eval", *arguments]):
        HarnessCLI().parse_args()


_OTHERS = {
    "bash": _check_bash,
    "curl": _check_curl,
    "lm_eval": _check_lm_eval,
    "make": _check_make,
    "pip": _check_pip,
    "srun": lambda arguments: None,  # without a module there is nothing of ours
}
