"""Rows of the figures about updates: ranks, spectra, drift, intruders and values of d."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .analysed import Analysed
from .measures import EPSILONS, RANKS, SHARES, SMOOTH, TOP, Measured
from .table import Row

BINS = 40
"""Of a histogram."""
HIGH = 0.5
"""The part of full rank above which a method counts as one of high rank."""


def by_label(runs: Iterable[Analysed]) -> dict[str, list[Analysed]]:
    """The runs of each label, in their order."""
    found: dict[str, list[Analysed]] = {}
    for run in runs:
        found.setdefault(run.member.label, []).append(run)
    return found


def ranks(runs: Sequence[Analysed]) -> list[Row]:
    """Of every kernel, the means over seeds."""
    rows: list[Row] = []
    for label, own in by_label(runs).items():
        for same in _same_kernel(own):
            first = same[0]
            means = {
                name: float(np.mean([each.ranks[name] for each in same]))
                for name in (*RANKS, *SHARES, *SMOOTH)
            }
            rows.append(
                {"label": label, **_place(first), "inputs": first.shape[0]}
                | {"outputs": first.shape[1], "full_rank": min(first.shape)}
                | {"seeds": len(same), **means}
            )
    return rows


def high_ranks(runs: Sequence[Analysed]) -> list[Row] | str:
    """:func:`ranks` of the labels whose mean rank is above half of the full one."""
    high = [run for own in by_label(runs).values() for run in own if rank_share(own) > HIGH]
    return ranks(high) if high else "needs a method whose rank is above half of the full one"


def rank_share(runs: Iterable[Analysed]) -> float:
    """The rank at float32's tolerance as a part of the full one, the mean over all kernels."""
    kernels = [kernel for run in runs for kernel in run.kernels]
    return float(np.mean([each.ranks["rank_float32"] / min(each.shape) for each in kernels]))


def spectra(runs: Sequence[Analysed]) -> list[Row] | str:
    """Singular values as parts of the largest: geometric means over layers and seeds."""
    rows: list[Row] = []
    for label, own in by_label(runs).items():
        for module, kernels in _by_module(own).items():
            known = [each for each in kernels if each.norm and each.shape == kernels[0].shape]
            if not known:
                continue
            values = np.maximum([each.spectrum for each in known], np.finfo(np.float64).tiny)
            for column, place in enumerate(known[0].places):
                at = values[:, column]
                rows.append(
                    {"label": label, "module": module, "place": place, "kernels": len(known)}
                    | {"mean": float(np.exp(np.mean(np.log(at))))}
                    | {"lowest": float(at.min()), "highest": float(at.max())}
                )
    return rows or "needs an update that is not zero"


def drift(runs: Sequence[Analysed]) -> list[Row]:
    """The norm of ΔW as a part of the kernel's, the mean over seeds."""
    return [
        {"label": label, **_place(same[0]), "seeds": len(same)}
        | {"norm": float(np.mean([each.norm for each in same]))}
        | {"drift": float(np.mean([each.drift for each in same]))}
        for label, own in by_label(runs).items()
        for same in _same_kernel(own)
    ]


def intruders(runs: Sequence[Analysed]) -> list[Row]:
    """Directions among the first of W + ΔW that are like none of W, the mean over kernels."""
    return [
        {"label": label, "module": module, "epsilon": epsilon, "kernels": len(kernels)}
        | {"directions": min(TOP, min(kernels[0].shape))}
        | {"intruders": float(np.mean([each.intruders[column] for each in kernels]))}
        for label, own in by_label(runs).items()
        for module, kernels in _by_module(own).items()
        for column, epsilon in enumerate(EPSILONS)
    ]


def histograms(runs: Sequence[Analysed]) -> list[Row]:
    """How often values of d lie between two bounds, by array; all kernels and seeds together."""
    rows: list[Row] = []
    for label, own in by_label(runs).items():
        arrays = {name: np.concatenate([run.d[name] for run in own]) for name in own[0].d}
        everything = np.concatenate([*arrays.values()])
        edges = np.histogram_bin_edges(everything, BINS)
        for name, values in arrays.items():
            counts, _ = np.histogram(values, edges)
            rows += [
                {"label": label, "array": name, "low": float(low), "high": float(high)}
                | {"count": int(count), "part": float(count / len(values))}
                for low, high, count in zip(edges, edges[1:], counts, strict=False)
            ]
    return rows


def _place(kernel: Measured) -> dict[str, Any]:
    return {"module": kernel.module, "layer": kernel.layer}


def _same_kernel(runs: Sequence[Analysed]) -> list[list[Measured]]:
    """The numbers of each kernel in all of the runs, by module and layer."""
    return _grouped(runs, lambda each: (each.module, each.path, each.layer))


def _by_module(runs: Sequence[Analysed]) -> dict[str, list[Measured]]:
    return {group[0].module: group for group in _grouped(runs, lambda each: each.module)}


def _grouped(runs: Sequence[Analysed], key: Callable[[Measured], Any]) -> list[list[Measured]]:
    found: dict[Any, list[Measured]] = {}
    for run in runs:
        for kernel in run.kernels:
            found.setdefault(key(kernel), []).append(kernel)
    return [found[each] for each in sorted(found)]
