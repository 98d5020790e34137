"""Which cases of a test run under ``make test``, and which under ``make test-long`` alone."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def quick_only(quick: Collection[Any], values: Iterable[Any], names: int = 1) -> list[Any]:
    """The values of a parametrised test; all but ``quick`` are ``long``.

    Args:
        quick: those that are not.
        values: all.
        names: arguments of the test that a value is for; a value for several is a tuple.

    Raises:
        ValueError: when one of ``quick`` is not among the values.
    """
    values = list(values)
    if missing := [value for value in quick if value not in values]:
        raise ValueError(f"{missing} are not among {values}")
    mark = pytest.mark.long
    return [
        value if value in quick else pytest.param(*(value if names > 1 else (value,)), marks=mark)
        for value in values
    ]
