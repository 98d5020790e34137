"""How one side of a kernel can be split into modes: the rules that bound the enumeration.

A side is left whole, or split evenly into 2, 3, 4 or 7 modes, or into its primes. Or it has one
long mode and a short one of at most 2, 4, 8, 16, 32 or 64. Two sides of such rules have the orders
2, 3, 4, 7 and 2^n of the paper's study, and those between.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tera_jax.network.tensorization import Tensorization, balanced_factors

EVEN = (2, 3, 4, 7)
"""Modes of an even split."""
SHORT = (2, 4, 8, 16, 32, 64)
"""The most entries of the short mode beside a long one."""

Modes = tuple[int, ...]


class Split(NamedTuple):
    """A rule that splits a side of any length."""

    name: str
    modes: Callable[[int], Modes]


def _long(most: int, length: int) -> Modes:
    """One long mode and the largest divisor up to ``most``; whole where there is none."""
    short = max(each for each in range(1, most + 1) if length % each == 0)
    return (length,) if short in (1, length) else (length // short, short)


def _even(parts: int, length: int) -> Modes:
    return balanced_factors(length, parts)


def _primes(length: int) -> Modes:
    return balanced_factors(length, length.bit_length())  # as many as there are


SPLITS = (
    Split("whole", lambda length: (length,)),
    *(Split(f"{parts} even", functools.partial(_even, parts)) for parts in EVEN),
    Split("primes", _primes),
    *(Split(f"long x {most}", functools.partial(_long, most)) for most in SHORT),
)
"""All rules of a side."""


def scheme(shape: tuple[int, ...], inputs: Split, outputs: Split) -> Tensorization:
    """The scheme of kernels (in, out), all ranks full."""
    sides = _modes(inputs, shape[0]), _modes(outputs, shape[1])
    return Tensorization(*sides, *sides)


@functools.cache
def _modes(split: Split, length: int) -> Modes:
    return split.modes(length)


def pairs() -> Iterator[tuple[Split, Split]]:
    """Every rule of the input side with every rule of the output side."""
    for inputs in SPLITS:
        for outputs in SPLITS:
            yield inputs, outputs
