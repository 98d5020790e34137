"""Rows of overlaps: how far the first directions of updates span the same space."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import numpy as np

from tera_jax.analysis.subspaces import Side, common_part

from .analysed import Analysed
from .measures import Measured
from .rank_rows import by_label
from .table import Row

Pair = tuple[Measured, Measured]


def within(runs: Sequence[Analysed]) -> list[Row] | str:
    """Between the layers of a run, and between the same layers of runs with two seeds."""
    rows: list[Row] = []
    for label, own in by_label(runs).items():
        for run in own:
            pairs = itertools.combinations(run.kernels, 2)
            rows += _rows("layers", label, run, None, (p for p in pairs if _module(p) is not None))
        for first, second in itertools.combinations(own, 2):
            rows += _rows("seeds", label, first, second, _same(first, second))
    return rows or "needs runs with two layers of a module, or with two seeds"


def between(runs: Sequence[Analysed]) -> list[Row] | str:
    """Between the same layers of two settings, with the same seed."""
    rows: list[Row] = []
    groups = by_label(runs)
    for (label, own), (other, theirs) in itertools.combinations(groups.items(), 2):
        for first, second in itertools.product(own, theirs):
            if first.member.seed != second.member.seed:
                continue
            found = _rows("settings", label, first, second, _same(first, second))
            rows += [{**row, "other": other} for row in found]
    return rows or "needs two settings with runs of one seed that adapt the same layers"


def _same(first: Analysed, second: Analysed) -> Iterable[Pair]:
    others = {(each.path, each.layer): each for each in second.kernels}
    for kernel in first.kernels:
        if (kernel.path, kernel.layer) in others:
            yield kernel, others[kernel.path, kernel.layer]


def _module(pair: Pair) -> str | None:
    return pair[0].module if pair[0].path == pair[1].path else None


def _rows(
    kind: str, label: str, first: Analysed, second: Analysed | None, pairs: Iterable[Pair]
) -> list[Row]:
    """A row for each module and side."""
    modules: dict[str, list[Pair]] = {}
    for pair in pairs:
        if all(each.directions["in"].size for each in pair):
            modules.setdefault(pair[0].module, []).append(pair)
    rows: list[Row] = []
    for module in sorted(modules):
        for side in get_args(Side):
            rows.append(
                {"kind": kind, "label": label, "seed": first.member.seed}
                | {"other_seed": (second or first).member.seed, "module": module, "side": side}
                | _numbers(modules[module], side)
            )
    return rows


def _numbers(pairs: Sequence[Pair], side: Side) -> dict[str, Any]:
    """Mean and extremes, and what directions at random have."""
    sides = [tuple(each.directions[side] for each in pair) for pair in pairs]
    found = [common_part(*both) for both in sides]
    chance = [max(each.shape[1] for each in both) / len(both[0]) for both in sides]
    return {
        "pairs": len(found),
        "mean": float(np.mean(found)),
        "lowest": min(found),
        "highest": max(found),
        "random": float(np.mean(chance)),
    }
