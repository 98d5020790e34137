"""Limits of the numbers in a configuration."""

from typing import Any

INT_LIMIT = 2**31 - 1
"""The largest whole number of a configuration, but for seeds."""
SEED_LIMIT = 2**32
"""Seeds are below it."""
LIMIT = (2 - 2.0**-23) * 2.0**127
"""The largest number of float32."""
LEAST = 2.0**-126
"""The least positive number of float32 with all its bits."""


def check_number(name: str, value: Any) -> None:
    """Raise ``ValueError`` for a number, or one of a tuple, that is not finite in 32 bits."""
    for number in value if isinstance(value, tuple) else (value,):
        if name == "seed" and not 0 <= number < SEED_LIMIT:
            raise ValueError(f"{name} {number}; a seed is from 0 to {SEED_LIMIT - 1}")
        if isinstance(number, float) and not abs(number) <= LIMIT:
            raise ValueError(f"{name} {number}; it must be finite in float32")
        if name != "seed" and isinstance(number, int) and abs(number) > INT_LIMIT:
            raise ValueError(f"{name} {number}; it must be at most {INT_LIMIT}")


def check_at_least(least: int, **fields: int | None) -> None:
    """Raise ``ValueError`` for a field below ``least``; None is no number."""
    for name, value in fields.items():
        if value is not None and value < least:
            raise ValueError(f"{name} {value}; it must be at least {least}")


def check_above_zero(**fields: float) -> None:
    """Raise ``ValueError`` for a field that is not finite and above 0."""
    for name, value in fields.items():
        if not LEAST <= value <= LIMIT:
            raise ValueError(f"{name} {value}; it must be finite and above 0")
