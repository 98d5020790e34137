"""The runs of a study as the figures about losses take them: without the arrays of updates."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from tera_jax.llama import Llama, load_config

from ..config import Config
from ..studies.jobs.trainer import with_frozen_seed
from ..studies.reports.summaries import chosen
from ..studies.results import Result
from ..studies.schema import Study
from ..training.run import make_adapter
from .analysed import Analysed
from .members import Member


def of_study(
    study: Study, results: Sequence[Result], ranks: Mapping[str, float] | None = None
) -> list[Analysed]:
    """Every whole run at the chosen learning rate, with its loss of the test part.

    Args:
        study: whose variants and tasks are taken, in their order. Of its model only the
            configuration is read.
        results: of any variants and tasks; a variant without results is left out.
        ranks: of updates, as parts of the full rank, by the name of a variant: figure 1's colours.

    Raises:
        FileNotFoundError: when there is no model at the path of the study.
        ValueError: when a variant does not fit the model.
    """
    model, config = Llama(load_config(study.config.model)), study.config
    found = []
    for variant in study.variants:
        own = [run for run in results if run.variant == variant.name and run.steps == config.steps]
        if not own:
            continue
        rank = (ranks or {}).get(variant.name)
        first = study.run(variant, config.tasks[0])
        adapter = make_adapter(first, model)
        for task in config.tasks:
            best = chosen([run for run in own if run.task == task.name])
            for run in sorted(best, key=lambda run: run.seed):
                member = Member(
                    path=Path(variant.name),
                    config=_as_run(study.run(variant, task), run),
                    adapter=adapter,
                    label=variant.name,
                    task=task.name,
                    tuned=True,
                )
                losses = run.test, None
                found.append(Analysed(member, run.steps, run.trained, *losses, [], {}, {}, rank))
    return found


def _as_run(config: Config, run: Result) -> Config:
    """With the rate and the seed of a run; the seed is that of the frozen network too."""
    return dataclasses.replace(
        with_frozen_seed(config, run.seed),
        optim=dataclasses.replace(config.optim, learning_rate=run.learning_rate),
        loop=dataclasses.replace(config.loop, seed=run.seed),
    )
