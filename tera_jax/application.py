"""The application, which fine-tunes: inside of an installed package, or beside it in a checkout.

The wheel holds it as ``tera_jax.train``, so that it never meets a ``train`` of the user's. This is
the one way from the library to it.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

_INSIDE, _BESIDE = "tera_jax.train", "train"
_HOME = Path(__file__).parent


def application(module: str = "") -> Any:
    """A module of the application, such as ``config``.

    Args:
        module: its name inside of the application; the whole of it when empty.

    Raises:
        ImportError: where another ``train`` hides that of a checkout.
    """
    name = _INSIDE if (_HOME / "train").is_dir() else _BESIDE
    if name == _BESIDE:
        found = importlib.import_module(name)
        if Path(found.__file__ or "").parent != _HOME.parent / "train":
            raise ImportError(
                f"{found.__file__} hides the application of the checkout {_HOME.parent}; rename "
                "it, or install TeRA-JAX as a wheel: pip install ."
            )
    return importlib.import_module(f"{name}.{module}" if module else name)


def default_config(method: str = "tera") -> Any:
    """A configuration with every field at its default, for a recipe to fill in and change.

    Args:
        method: a row of ``tera_jax.methods.TABLE``.

    Returns:
        A ``ConfigDict`` of ml_collections.

    Raises:
        ValueError: for an unknown method.
    """
    return application("config").default(method)


def published_config(method: str = "tera") -> Any:
    """A method as published: rank, rate, draws, batches of 32, 100 warm-up steps, linear decay.

    Args:
        method: a row of ``tera_jax.methods.TABLE``.

    Returns:
        A ``ConfigDict`` of ml_collections.

    Raises:
        ValueError: for an unknown method.
    """
    return application("config").published(method)


def command() -> None:
    """A console script: ``tera-export`` runs the module ``export`` of the application."""
    name = Path(sys.argv[0]).stem.removeprefix("tera-").replace("-", "_")
    application({"train": "main", "params": "params.count"}.get(name, name)).cli()
