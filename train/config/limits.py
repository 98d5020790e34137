"""Limits of numbers in a configuration."""

import math


def require_at_least(least: float, **fields: float | None) -> None:
    """Raise ``ValueError`` for a field below ``least`` or not finite; None is not checked."""
    for name, value in fields.items():
        if value is not None and not least <= value < math.inf:
            raise ValueError(f"{name} is {value}; it must be at least {least}")


def require_above_zero(**fields: float | None) -> None:
    """Raise ``ValueError`` for a field that is not finite and above 0; None is not checked."""
    for name, value in fields.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be above 0 and finite")
