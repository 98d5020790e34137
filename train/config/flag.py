"""The flag ``--config=FILE`` and the flags ``--config.KEY=VALUE`` that change its fields."""

import functools
import re
import runpy
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from tera_jax.methods import TABLE

from .names import require_known
from .schema import keys


class _Parser(flags.ArgumentParser):
    """Runs the file, and checks the names of the other flags before ``ml_collections`` does."""

    def __init__(self, name: str, argv: list[str] | None) -> None:
        self._name, self._argv = name, argv

    def parse(self, argument: str) -> Any:
        config = _config(self._name, argument)
        method = config.get("method", {}).get("name")
        if method in TABLE:
            _check(self._name, keys(method), sys.argv if self._argv is None else self._argv)
        return config.lock()

    def flag_type(self) -> str:
        return "config object"


def _config(name: str, argument: str) -> Any:
    """What ``get_config`` of a file gives, for what stands after a colon."""
    file, colon, variant = argument.partition(":")
    if file in (known := recipes()):
        file = str(known[file])
    if not Path(file).is_file():
        raise flags.Error(
            f"--{name}={argument}: {file} does not exist; name a file, or one of the recipes "
            f"{', '.join(known)}"
        )
    get_config = runpy.run_path(file)["get_config"]
    try:
        return get_config(variant) if colon else get_config()
    except TypeError as error:
        if "get_config() takes 0" in str(error):
            raise flags.Error(f"{file} takes nothing after a colon") from None
        raise RuntimeError(f"{file}: {error}") from error  # a TypeError would lose its traceback


def folder() -> Path:
    """Where the recipes are: in the checkout, or inside the installed package."""
    home = Path(__file__).parents[1]
    return next(path for path in (home / "recipes", home.parent / "configs") if path.is_dir())


def recipes() -> dict[str, Path]:
    """The files of the recipes, by name."""
    return {file.stem: file for file in sorted(folder().glob("[!_]*.py"))}


def recipe(name: str, method: str) -> Any:
    """The configuration of a recipe, for a method.

    Args:
        name: of the recipe, or a file.
        method: a row of ``tera_jax.methods.TABLE``.

    Raises:
        FileNotFoundError: when there is no such recipe.
        ValueError: for an unknown method.
    """
    file = (known := recipes()).get(name, Path(name))
    if not file.is_file():
        raise FileNotFoundError(
            f"recipe {name!r} does not exist; name a file, or one of {', '.join(known)}"
        )
    return _function(str(file))(method)


@functools.cache
def _function(file: str) -> Any:
    return runpy.run_path(file)["get_config"]


def _check(name: str, known: set[str], argv: list[str]) -> None:
    """Raise ``flags.Error`` for a flag of a key that is not known."""
    for argument in flags.FLAGS.read_flags_from_files(argv, force_gnu=False):
        match = re.match(rf"--?(?:no)?{name}\.([\w.]+)(?:=|$)", argument)
        if match is None:
            continue
        try:
            require_known(f"config.{match[1]}", known)
        except ValueError as error:
            raise flags.Error(str(error)) from None


def define(
    name: str = "config",
    flag_values: flags.FlagValues = flags.FLAGS,
    argv: list[str] | None = None,
) -> flags.FlagHolder[Any]:
    """Define the flag, of the command line ``argv``; by default the process's."""
    help_ = (
        "a file, or the name of a recipe; --config.KEY=VALUE changes a field, --print-config lists "
        "them"
    )
    holder = config_flags.DEFINE_config_file(
        name, None, help_, flag_values=flag_values, sys_argv=argv
    )
    flag_values[name].parser = _Parser(name, argv)
    return holder
