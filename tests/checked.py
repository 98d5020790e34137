"""What the import hook of ``conftest.py`` checks annotations with."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_CONF = BeartypeConf(is_pep484_tower=True)


def checked(function: Callable[..., Any]) -> Any:
    """Checked by beartype at every call; an integer is a float too, as it is for mypy."""
    return beartype(function, conf=_CONF)
