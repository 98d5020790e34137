"""What all command lines share: the parser, and how an error of the user is told."""

import argparse
import ast
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

_OURS = ("train", "tera_jax", "benchmarks", "configs", "__main__")
_USER = (ValueError, FileNotFoundError, FileExistsError, ImportError)
_STATUS = 2
_SCRIPT = "tera-"
"""What the names of the console scripts begin with."""


def named(name: str) -> str:
    """How a command of the application is called: ``python -m train.export`` in a checkout.

    Args:
        name: of its module.
    """
    return f"python -m {__package__}.{name}"


def parser(main: Callable[..., Any], name: str | None = None) -> argparse.ArgumentParser:
    """A parser with ``--debug``.

    Args:
        main: of the command. The docstring of its module is the description.
        name: of the command's module, by default that of ``main``.
    """
    module = sys.modules[main.__module__]
    name = name or (module.__spec__.name if module.__spec__ else module.__name__)
    script = Path(sys.argv[0]).name
    result = argparse.ArgumentParser(
        prog=script if script.startswith(_SCRIPT) else f"python -m {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--debug", action="store_true", help="show the traceback of every error")
    return result


def setting(text: str) -> tuple[str, Any]:
    """A key and a value of a command line, the value as Python reads it or else a text.

    Raises:
        argparse.ArgumentTypeError: for a text without an equals sign.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form field=value")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def run(main: Callable[[], Any]) -> None:
    """Run a command on ``sys.argv``. An error of the user ends it with one message and status 2.

    Bugs, and all errors under ``--debug``, keep their traceback.
    """
    try:
        main()
        if sys.stdout is not None:  # as on a full disk
            sys.stdout.flush()
    except BrokenPipeError:  # such as of `| head`; Python would say so again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if "--debug" in sys.argv or not is_user_error(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(_STATUS)


def is_user_error(error: BaseException) -> bool:
    """Whether the message tells the user what to change, so that no traceback is needed.

    These are errors of flags, and those that this project raises itself: a ``ValueError`` out of a
    library is a bug here.
    """
    if isinstance(error, flags.Error):
        return True
    if not isinstance(error, _USER):
        return False
    if isinstance(error, ImportError) and error.name is not None:
        return False  # of an import statement; ours say what to install
    if isinstance(error, OSError) and error.errno is not None:
        return True  # of the system, and names the file
    return _module(error).partition(".")[0] in _OURS and not _has_passed_jax(error)


def _module(error: BaseException) -> str:
    """The module of the line that raised it."""
    traceback = error.__traceback__
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return str(traceback.tb_frame.f_globals.get("__name__", ""))


def _has_passed_jax(error: BaseException) -> bool:
    """Whether JAX took frames out of the traceback: it may have raised the error itself."""
    return any("JAX has removed" in note for note in getattr(error, "__notes__", ()))
