"""Limits of numbers in a configuration."""

from tera_jax.methods.limits import INT_LIMIT, LEAST, LIMIT, SEED_LIMIT

_ONE = 1 - 2.0**-25
"""What float32 rounds to 1."""


def require_at_least(least: float, **fields: float | None) -> None:
    """Raise ``ValueError`` for a field below ``least`` or beyond 32 bits; None is not checked."""
    for name, value in fields.items():
        limit = INT_LIMIT if isinstance(value, int) else LIMIT
        if value is not None and not least <= value <= limit:
            raise ValueError(f"{name} is {value}; it must be at least {least} and fit 32 bits")


def require_above_zero(**fields: float | None) -> None:
    """Raise ``ValueError`` for a field that in float32 is not finite and above 0, but for None."""
    for name, value in fields.items():
        if value is not None and not LEAST <= value <= LIMIT:
            raise ValueError(f"{name} is {value}; it must be above 0 and finite in float32")


def require_below_one(**fields: float) -> None:
    """Raise ``ValueError`` for a field that in float32 is not from 0 to 1, 1 itself left out."""
    for name, value in fields.items():
        if not 0 <= value < _ONE:
            raise ValueError(f"{name} is {value}; it must be at least 0 and below 1 in float32")


def require_seed(**fields: int) -> None:
    """Raise ``ValueError`` for a seed that 32 bits without a sign do not hold."""
    for name, value in fields.items():
        if not 0 <= value < SEED_LIMIT:
            raise ValueError(f"{name} is {value}; a seed is from 0 to {SEED_LIMIT - 1}")
