"""Short runs of schemes by successive halving, in the rooms and the results of ``train.compare``.

A rung trains each scheme that is left for a number of steps; the half with the lower validation
loss goes on to the next. The first rung has a quarter of a run's steps, the second those of a short
run of ``train.compare``, the last all of them, with all seeds. A run that is among the results is
taken from there.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..studies import identity, loop, schema
from ..studies.reports.summaries import chosen, spread
from ..studies.results import Results, finished
from ..studies.schema import Study
from ..studies.variants import Variant
from .probe import Probe

_FIRST = 4
"""The first rung has the steps of a run divided by this."""


def rungs(study: Study) -> list[int]:
    """The steps of a run on each rung, ascending."""
    config = study.config
    return sorted({math.ceil(config.steps / _FIRST), config.short, config.steps})


def run(
    study: Study, output: Path, command: str, devices: Sequence[str] = (), retry: bool = False
) -> dict[str, Probe]:
    """Train the variants of a study, fewer on each rung.

    Args:
        study: whose variants are the schemes. Its learning rates are those that each run tries.
        output: the directory of a study, which this process holds.
        command: as reports state it.
        devices: a process is started for each, where there are several.
        retry: run again what failed before.

    Returns:
        What is known of each variant by name, without those that failed.

    Raises:
        FileExistsError: as :func:`train.studies.loop.run`.
        FileNotFoundError: likewise.
        ValueError: likewise, and when all schemes fail.
    """
    before = identity.read(output)
    opened = loop.enter(study, output, command, retry)
    _keep(output, before)
    left, found = study.variants, dict[str, Probe]()
    for steps in rungs(study):
        seeds = study.config.seeds if steps == study.config.steps else 1
        part = rung(study, left, steps, seeds)
        outcome = loop.perform(part, opened.data, opened.results, opened.check, devices)
        probes = {
            each.name: probe
            for each in left
            if (probe := measured(part, each.name, opened.results)) is not None
        }
        if not probes:
            raise ValueError(
                f"no scheme could be trained for {steps} steps: {'; '.join(outcome.failed)}"
            )
        found |= probes
        order = sorted(
            (each for each in left if each.name in probes),
            key=lambda each: probes[each.name].loss.mean,
        )
        left = tuple(order[: math.ceil(len(order) / 2)])
    return found


def rung(study: Study, variants: Sequence[Variant], steps: int, seeds: int) -> Study:
    """A study of some variants with shorter runs.

    Its warm-up and decay are the shares of a run's that a short run of ``train.compare`` has.
    """
    config = study.config
    optim = study.run(variants[0], config.tasks[0]).optim
    share = steps / config.steps
    fewer = {
        "warmup_steps": max(min(1, optim.warmup_steps), round(optim.warmup_steps * share)),
        "decay_steps": optim.decay_steps and max(1, round(optim.decay_steps * share)),
    }
    settings: Mapping[str, Any] = {
        **config.settings,
        "optim": {**config.settings.get("optim", {}), **fewer},
    }
    own = dataclasses.replace(
        config, steps=steps, search_steps=None, seeds=seeds, settings=settings
    )
    return schema.make(own, tuple(variants))


def measured(study: Study, variant: str, results: Results) -> Probe | None:
    """The loss of a variant after the runs of a rung; None where one is missing."""
    by_seed: dict[int, list[float]] = {}
    rates = {}
    for task in study.config.tasks:
        best = chosen(finished(results.of(variant, task.name), study.config.steps))
        for each in best:
            by_seed.setdefault(each.seed, []).append(each.validation)
        if best:
            rates[task.name] = best[0].learning_rate
    whole = [
        statistics.fmean(losses)
        for seed, losses in by_seed.items()
        if len(losses) == len(study.config.tasks) and seed < study.config.seeds
    ]
    if not whole:
        return None
    return Probe(spread(whole), study.config.steps, len(whole), rates)


def _keep(output: Path, before: Mapping[str, Any] | None) -> None:
    """Leave the seeds, baseline and command of a study that was there before."""
    if before is None:
        return
    kept = {name: before[name] for name in ("command", "baseline", "seeds")}
    identity.write(output, {**(identity.read(output) or {}), **kept})
