"""The first short run of ``train.plan_scheme --data``, of schemes whose tuned loss is known.

Tasks, batches and template are those of the tuned runs (``configs/studies/smollm2.py``). Steps,
schedule and learning rate are what the planner takes: the first rung of its halving, the rate of
the recipe ``sft``, and the first seed alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import methods
from train.planning import probes
from train.planning.probe import usual_rate
from train.studies import loop, schema
from train.studies.results import Results
from train.studies.schema import Study
from train.studies.variants import Variant

TASKS = ("GSM8K", "ConvAI2")


def study(model: str, paths: Mapping[str, str], variants: Sequence[Variant]) -> Study:
    """The study that has the first rung of the planner's runs.

    Args:
        model: of the base.
        paths: of the tasks' records, by name.
        variants: the schemes.

    Raises:
        ValueError: for a task that the study of methods does not have.
    """
    tuned = methods.study(model, dict(paths), variants, seeds=1)
    whole = schema.make(dataclasses.replace(tuned.config, rates=(usual_rate(),)), tuned.variants)
    return probes.rung(whole, whole.variants, probes.rungs(whole)[0], 1)


def perform(given: Study, output: Path, retry: bool = False) -> tuple[str, ...]:
    """Make the runs that are not there, in this process: one line of ``output`` each, as it ends.

    Args:
        given: from :func:`study`.
        output: lines of results.
        retry: run again what failed before.

    Returns:
        What failed, in a line each.

    Raises:
        FileNotFoundError: for a model or records that are not there.
        ValueError: for those that cannot be read.
    """
    results = Results(output)
    results.repair()
    if retry:
        results.forget_failures()
    return loop.perform(given, loop.read(given), results, lambda _: None).failed


def losses(given: Study, output: Path) -> dict[tuple[str, str], float]:
    """The validation loss after a short run, by scheme and task, in nats a token.

    Args:
        given: from :func:`study`, of any model and paths.
        output: lines of results, which need not be there.
    """
    results = Results(output)
    found = {}
    for task in given.config.tasks:
        alone = dataclasses.replace(given, config=dataclasses.replace(given.config, tasks=(task,)))
        for variant in given.variants:
            probe = probes.measured(alone, variant.name, results)
            if probe is not None:
                found[variant.name, task.name] = probe.loss.mean
    return found
