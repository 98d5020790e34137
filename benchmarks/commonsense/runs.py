"""The runs of a method on the third task, at the rates that won on the other tasks."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from configs.studies import smollm2
from tera_jax.ops import dispatch
from train.studies import identity, schema
from train.studies.jobs.trainer import Base, Trainer
from train.studies.parts import Parts
from train.studies.reports.summaries import chosen
from train.studies.results import Result, finished
from train.studies.schema import FIRST_SEED
from train.studies.variants import BASE, Variant

from . import scores
from .drawn import Drawn
from .rows import Row

NAME = "commonsense"
STEPS: int = smollm2.get_config().steps
_WARMUP: int = smollm2.get_config().settings["optim"]["warmup_steps"]
_MOST = 64
"""Rows of a batch of the loss."""


def study(
    model: str, records: str, drawn: Drawn, variants: Sequence[Variant], steps: int = STEPS
) -> schema.Study:
    """The study of ``configs/studies/smollm2.py`` on these records alone.

    Fewer steps have the same share of warm-up.

    Args:
        model: of the base.
        records: the file.
        drawn: what it has.
        variants: to compare.
        steps: of a run.
    """
    tree: dict[str, Any] = smollm2.get_config().to_dict()
    tree["settings"]["optim"]["warmup_steps"] = max(1, _WARMUP * steps // STEPS)
    largest = max([len(drawn.validation), *map(len, drawn.tests.values())])
    tree["settings"]["evaluate"] = {"batch_size": min(_MOST, largest)}
    tasks = [{"name": NAME, "path": records}]
    config = schema.build({**tree, "model": model, "tasks": tasks, "steps": steps})
    return schema.make(config, tuple(variants))


def rates(variant: str, results: Iterable[Result], steps: int = STEPS) -> list[float]:
    """The learning rates that won on the other tasks, each once.

    Args:
        variant: by its name.
        results: of the study of methods.
        steps: of a run of that study.

    Raises:
        ValueError: when the variant has no runs.
    """
    runs = [run for run in finished(results, steps) if run.variant == variant]
    tasks = dict.fromkeys(run.task for run in runs)
    best = [chosen([run for run in runs if run.task == task]) for task in tasks]
    found = sorted({group[0].learning_rate for group in best if group})
    if not found:
        raise ValueError(
            f"{variant} has no finished runs among --results, so that no rate is known; run "
            "benchmarks.methods with it first"
        )
    return found


def follow(
    tried: Sequence[float],
    seeds: int,
    done: Iterable[Row],
    make: Callable[[float, int], Row],
) -> list[Row]:
    """The runs of a method: each rate with the first seed, then the other seeds at the best.

    Args:
        tried: the rates.
        seeds: how many.
        done: the method's runs that are there.
        make: makes the run of a rate and a seed.

    Returns:
        the runs at the rate of the least validation loss, by seed.

    Raises:
        ValueError: when no rate has a finite loss.
    """
    known = {(row.learning_rate, row.seed): row for row in done}

    def run(rate: float, seed: int) -> Row:
        if (rate, seed) not in known:
            known[rate, seed] = make(rate, seed)
        return known[rate, seed]

    best = min((run(rate, FIRST_SEED) for rate in tried), key=lambda row: row.validation)
    if not math.isfinite(best.validation):
        raise ValueError(f"{best.variant} has no finite validation loss at the rates {tried}")
    others = range(FIRST_SEED + 1, FIRST_SEED + seeds)
    return [best, *(run(best.learning_rate, seed) for seed in others)]


class Maker:
    """Makes the runs of one method; the first compiles for all.

    Args:
        base: loaded.
        study: that the method is of.
        variant: its name; :data:`train.studies.variants.BASE` is not trained.
        parts: of the task.
        tests: likewise.
        drawn: the records that both are of.

    Raises:
        ValueError: when the method does not fit the base.
    """

    def __init__(
        self,
        base: Base,
        study: schema.Study,
        variant: str,
        parts: Parts,
        tests: scores.Tests,
        drawn: Drawn,
    ) -> None:
        self._steps = 0 if variant == BASE else study.config.steps
        self._config = study.run(study.variant(variant), study.task(NAME))
        self._trainer = Trainer(base, self._config, parts, variant, NAME)
        self._parts, self._tests, self._drawn = parts, tests, drawn
        self._base, self._variant = base, variant

    def __call__(self, learning_rate: float, seed: int) -> Row:
        """Train and measure."""
        trainer, steps = self._trainer, self._steps
        trained = trainer.train(learning_rate, seed, steps) if steps else trainer.start()
        start = time.perf_counter()
        validation = trainer.loss(trained, self._parts.validation)
        found = scores.measure(trainer, trained, self._tests)
        seconds = time.perf_counter() - start
        adapts = steps and not trained.run.adapter.trains_all
        lost = not math.isfinite(validation + sum(found.nll.values()))
        return Row(
            self._variant,
            learning_rate,
            seed,
            steps,
            trainer.trained if steps else 0,
            validation,
            *found,
            "+".join(self._config.method.targets) if adapts else "",
            trained.seconds_per_step,
            seconds,
            self._drawn.counts,
            self._drawn.identity,
            self._base.fingerprint,
            dispatch.device_kind(),
            identity.programs(),
            trained.note or ("the held-out loss is not finite" if lost else ""),
        )
