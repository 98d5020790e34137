"""The cases of the sweeps of benchmarks/speed.py, and what that of the tokens says of the route."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import numpy as np

from benchmarks.cases import ALL, FROZEN, QV, Case
from benchmarks.steps import Measurement
from tera_jax.methods import TABLE
from tera_jax.methods.base import NormMethod
from tera_jax.methods.tera import TeRA
from tera_jax.methods.vblora import VBLoRA
from tera_jax.network import cost_model


def sweep(name: str, rows: int, length: int, hidden: int, remat: str) -> Iterator[Case]:
    """The cases of a sweep."""
    case = Case("tera", rows, length, remat)
    if name == "tokens":
        for tokens in (512, 1024, 2048, 4096, 8192, 16384, 32768):
            at = case._replace(rows=max(1, tokens // length), length=min(tokens, length))
            yield at._replace(method=FROZEN)
            yield from (at._replace(route=route) for route in _routes(hidden))
    elif name == "order":
        yield case._replace(method=FROZEN)
        for scheme in schemes(hidden):
            yield case._replace(fields=(("tensorizations", (scheme,)),))
    elif name == "targets":
        for targets in (QV, ("q_proj", "k_proj", "v_proj", "o_proj"), ALL):
            yield from (
                case._replace(method=method, targets=targets) for method in (FROZEN, "lora", "tera")
            )
    elif name == "methods":
        yield case._replace(method=FROZEN)
        for method, row in TABLE.items():
            own: tuple[str, ...] = row.default_targets if issubclass(row, NormMethod) else QV
            fields = _fields(method, hidden)
            yield case._replace(method=method, targets=own, fields=fields)


def _fields(method: str, hidden: int) -> tuple[tuple[str, Any], ...]:
    """Of a method whose default asks for kernels of another size."""
    if method == "quanta":
        return (("axes", axes(hidden)),)
    length = VBLoRA().vector_length
    if method == "vblora" and hidden % length:
        return (("vector_length", math.gcd(hidden, length)),)
    return ()


def schemes(hidden: int) -> list[str]:
    """Networks of a square kernel, of order 2, 3, ... to twice the number of factors of two."""
    power = hidden.bit_length() - 1
    if hidden != 2**power:
        raise ValueError(f"a sweep of the order needs a power of two, not {hidden}")
    split = {parts: [2 ** len(each) for each in np.array_split(range(power), parts)]
             for parts in (1, 2, 3, 4, 6, 12) if parts <= power}  # fmt: skip
    sides = {parts: "x".join(map(str, modes)) for parts, modes in split.items()}
    one_side = [f"{hidden}|{side}" for side in sides.values()]
    return [*one_side, f"{sides[max(sides)]}|{sides[max(sides)]}"]


def axes(hidden: int) -> tuple[int, ...]:
    """Three factors as equal as can be, for QuanTA."""
    first = max(f for f in range(1, round(hidden ** (1 / 3)) + 1) if hidden % f == 0)
    rest = hidden // first
    second = max(f for f in range(1, math.isqrt(rest) + 1) if rest % f == 0)
    return (first, second, rest // second)


def _network(hidden: int) -> cost_model.Network:
    """That which TeRA gives a square kernel by default."""
    return cost_model.Network(TeRA().tensorization((hidden, hidden)))


def _routes(hidden: int) -> list[cost_model.Route]:
    """Those that TeRA's network of a square kernel has."""
    projects = _network(hidden).projects
    return [route for route in get_args(cost_model.Route) if projects or route != "project"]


def choices(found: Sequence[Measurement], hidden: int) -> Iterator[str]:
    """Markdown: for each number of tokens the fastest route, and how near to it the chosen one is.

    Args:
        found: rows of the sweep ``tokens``, q and v adapted.
        hidden: of the model.
    """
    yield "| tokens | fastest | ms | chosen | ms | to the fastest |"
    yield "| ---: | --- | ---: | --- | ---: | ---: |"
    for tokens in sorted({row.tokens for row in found}):
        seconds = {
            row.name.removeprefix("tera "): row.step_seconds
            for row in found
            if row.tokens == tokens and row.name.startswith("tera ") and not row.note
        }
        chosen = cost_model.route(_network(hidden), tokens, cost_model.device(), readers=2)
        if chosen not in seconds:
            yield f"| {tokens:,} | | | {chosen} | out of memory | |"
            continue
        fastest = min(seconds, key=seconds.__getitem__)
        cells = f"{tokens:,}", fastest, _ms(seconds[fastest]), chosen, _ms(seconds[chosen])
        yield f"| {' | '.join(cells)} | {seconds[chosen] / seconds[fastest]:.3f} |"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"
