"""How far each comparison with a tolerance stays below its limit: ``pytest --margins=FILE``.

A margin is limit over observed error. Below 3, another processor's rounding may fail the test.
Comparisons that hold are recorded: one that does not fails its test, or is meant to.
"""

import functools
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

_VARIABLE = "TESTS_MARGINS"
"""Names the file, to the processes too that a test starts."""


class Comparison(NamedTuple):
    """What one line of one test compared, where it came nearest to its limit."""

    test: str
    line: str
    observed: float
    limit: float
    of_draws: bool = False

    @property
    def margin(self) -> float:
        return self.limit / self.observed if self.observed else np.inf


def within(observed: Any, limit: Any, of_draws: bool = False) -> None:
    """Assert that an error is at most its limit.

    Args:
        observed: the error.
        limit: of it.
        of_draws: it is by how much an estimate from random draws misses. Fixed keys draw the same
            on every processor, so that such a margin says nothing of rounding.
    """
    observed, limit = float(observed), float(limit)
    assert observed <= limit, f"{observed:.3g} is above {limit:.3g}"
    _record(observed, limit, of_draws)


def close(found: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-8) -> None:
    """Assert that ``allclose`` holds, with its defaults."""
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def roundings(dtype: Any, count: int) -> float:
    """The relative error that ``count`` roundings to a type, one after the other, may leave.

    One is off by half the spacing of numbers at most, u, and by u / √3 in the root mean square. The
    squares of independent ones add up, and the limit is six times the root of that sum. A sum is
    rounded as often as it has terms.
    """
    unit = float(jnp.finfo(dtype).eps) / 2
    return 6 * unit * math.sqrt(count / 3)


def start(file: str | None) -> None:
    """Record from now on, where a file is named here or by the process that started this one."""
    if file is not None:
        os.environ[_VARIABLE] = os.path.abspath(file)
    if _VARIABLE not in os.environ:
        return
    np.testing.assert_allclose = _recorded(np.testing.assert_allclose)
    scalar: Any = type(pytest.approx(0.0))  # of sequences too, entry by entry
    equal = scalar.__eq__

    def recorded_equal(self: Any, actual: Any) -> bool:
        result = equal(self, actual)
        if result and isinstance(actual, int | float | np.number) and np.isfinite(actual):
            _record(abs(actual - self.expected), self.tolerance)
        return result

    scalar.__eq__ = recorded_equal


def table() -> list[Comparison]:
    """All comparisons so far, smallest margin first; the parts are merged into the one file."""
    file = Path(os.environ[_VARIABLE])
    parts = list(file.parent.glob(f"{file.name}.*"))
    nearest: dict[tuple[str, str], Comparison] = {}
    for comparison in _read(parts):
        key = comparison[:2]
        if key not in nearest or comparison.margin < nearest[key].margin:
            nearest[key] = comparison
    rows = sorted(nearest.values(), key=lambda row: row.margin)
    file.write_text(json.dumps([{**row._asdict(), "margin": row.margin} for row in rows], indent=1))
    for part in parts:
        part.unlink()
    return rows


def _read(parts: list[Path]) -> Iterator[Comparison]:
    for part in parts:
        yield from (Comparison(*json.loads(line)) for line in part.read_text().splitlines())


def _recorded(assert_allclose: Any) -> Any:
    @functools.wraps(assert_allclose)
    def wrapped(
        actual: Any, desired: Any, rtol: float = 1e-7, atol: float = 0, **rest: Any
    ) -> None:
        assert_allclose(actual, desired, rtol=rtol, atol=atol, **rest)
        found, expected = (_finite(x) for x in (actual, desired))
        errors, limits = np.broadcast_arrays(
            np.abs(found - expected), atol + rtol * np.abs(expected)
        )
        share = np.where(errors == 0, 0, errors / np.where(limits == 0, np.nan, limits))
        if share.size and not np.isnan(share).all():
            worst = np.nanargmax(share)
            _record(errors.flat[worst], limits.flat[worst])

    return wrapped


def _finite(x: Any) -> np.ndarray:
    """In float64. What is no number equals the like in the other array, which is asserted."""
    return np.nan_to_num(np.asarray(x, np.float64), posinf=0, neginf=0)


def _record(observed: float, limit: float, of_draws: bool = False) -> None:
    """Not where the limit is zero: what must be equal has no margin."""
    if _VARIABLE not in os.environ or limit == 0:
        return
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" (", 1)[0]
    row = Comparison(test, _line(), float(observed), float(limit), of_draws)
    with open(f"{os.environ[_VARIABLE]}.{os.getpid()}", "a") as part:
        part.write(json.dumps(row) + "\n")


def _line() -> str:
    """The innermost line of a test that is on the stack, but for this file's."""
    frame = sys._getframe(1)
    root = Path(__file__).parent
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(root) and path != Path(__file__):
            return f"{path.relative_to(root.parent)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
