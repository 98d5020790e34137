"""Which cases of a test run under ``make test``, and which under ``make test-long`` alone."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def quick_only(quick: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """The values of a parametrised test; all but ``quick`` are ``long``.

    Raises:
        ValueError: when one of ``quick`` is not among the values.
    """
    values = list(values)
    if missing := [value for value in quick if value not in values]:
        raise ValueError(f"{missing} are not among {values}")
    return [
        value if value in quick else pytest.param(value, marks=pytest.mark.long) for value in values
    ]
