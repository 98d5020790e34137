"""The rows of a plan: what is known of each scheme without training, and what the runs gave."""

import csv
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

from tera_jax.adapters.factory import select
from tera_jax.adapters.targets import ModelLayers
from tera_jax.methods import TeRA
from tera_jax.network import cost_model

from ..text_table import aligned
from . import spectra
from .budget import file_bytes
from .candidates import METHOD, Candidate
from .probe import Probe

RULE, MEASURED = "rule", "measured"


class Cost(NamedTuple):
    """What the cost model says of a training step.

    Attributes:
        routes: of the contraction, over all adapted kernels.
        seconds: that they add to the step of the base.
    """

    routes: tuple[str, ...]
    seconds: float


class Row(NamedTuple):
    """A scheme.

    Attributes:
        place: by the rules, from 1, among all schemes under the budget.
        candidate: the scheme.
        bytes: of the exported ``adapter.safetensors``.
        max_rank: Theorem 1's bound: the least over the adapted kernels.
        ranks: at a random d, likewise.
        cost: of a training step.
        probe: of the runs, if there were any.
    """

    place: int
    candidate: Candidate
    bytes: int
    max_rank: int
    ranks: spectra.Ranks
    cost: Cost
    probe: Probe | None = None


def row(
    place: int, candidate: Candidate, found: ModelLayers, tokens: int, device: str, exact: bool
) -> Row:
    """The row of a candidate, of which nothing is trained.

    Args:
        place: by the rules.
        candidate: the scheme.
        found: layers of the model.
        tokens: of a batch.
        device: kind, for the cost model.
        exact: whether the ranks are those of the full size.
    """
    layout = candidate.layout
    each = [
        spectra.ranks(scheme, candidate.zero, candidate.init, exact)
        for scheme in dict.fromkeys(layout.schemes)
    ]
    ranks = spectra.Ranks(min(r.stable for r in each), min(r.entropy for r in each))
    bound = min(scheme.max_rank for scheme in layout.schemes)
    costs = cost(candidate, found, tokens, device)
    return Row(place, candidate, file_bytes(layout), bound, ranks, costs)


def cost(candidate: Candidate, found: ModelLayers, tokens: int, device: str) -> Cost:
    """Of all adapted kernels together, by :mod:`tera_jax.network.cost_model`.

    Raises:
        ValueError: when the method does not take the candidate's settings.
    """
    settings = candidate.variant.settings()
    targets = settings.pop("targets")
    method = TeRA(**settings)
    adapter = select(METHOD, method, found, targets)
    rates, total, routes = cost_model.device(device), 0.0, []
    for layer, count in zip(adapter.layers, candidate.layout.counts, strict=True):
        network, readers = method.network(layer)
        taken = cost_model.seconds(network, tokens, rates, readers)
        route = cost_model.route(network, tokens, rates, readers)
        routes.append(route)
        total += count * taken[route]
    return Cost(tuple(dict.fromkeys(routes)), total)


def columns(exact: bool) -> list[str]:
    """The heads of the table; those of ranks say at which size they are."""
    stable = "stable rank" if exact else f"stable rank (<= {spectra.STABLE_SIDE})"
    entropy = "entropy rank" if exact else f"entropy rank (proxy <= {spectra.ENTROPY_SIDE})"
    return [
        *("scheme", "targets", "init", "zero", "trained", "bytes", "rank bound", stable, entropy),
        *("route", "ms", "place by rule", "loss", "spread", "steps", "seeds", "from"),
    ]


def cells(row: Row) -> list[str]:
    """The values of a row in the order of :func:`columns`."""
    layout, probe = row.candidate.layout, row.probe
    loss, spread, steps, seeds = ("-",) * 4
    if probe is not None:
        finite = math.isfinite(probe.loss.mean)
        loss = f"{probe.loss.mean:.4f}" if finite else "not finite"
        spread = "-" if probe.loss.deviation is None else f"{probe.loss.deviation:.4f}"
        steps, seeds = str(probe.steps), str(probe.seeds)
    return [
        layout.label,
        "+".join(layout.targets),
        row.candidate.init,
        str(row.candidate.zero),
        str(layout.trained),
        str(row.bytes),
        str(row.max_rank),
        f"{row.ranks.stable:.1f}",
        f"{row.ranks.entropy:.1f}",
        "+".join(row.cost.routes),
        f"{row.cost.seconds * 1e3:.3f}",
        str(row.place),
        loss,
        spread,
        steps,
        seeds,
        RULE if probe is None else MEASURED,
    ]


def text(rows: Sequence[Row], exact: bool) -> str:
    """For a terminal."""
    return "\n".join(aligned([columns(exact), *map(cells, rows)]))


def as_csv(rows: Sequence[Row], exact: bool) -> str:
    """The same, with the name of each as ``train.compare`` takes it."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*columns(exact), "method"])
    for each in rows:
        writer.writerow([*cells(each), each.candidate.variant.canonical])
    return stream.getvalue()
