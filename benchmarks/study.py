"""The table and the points of the study of methods; names of variants on a quantised base."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from train.params.count import count
from train.studies import loop
from train.studies.jobs.job import Job
from train.studies.reports.summaries import Summary, chosen, summarize
from train.studies.results import Failure, Result, Results
from train.studies.schema import Study


def on_base(variant: str, quantize: str) -> str:
    """How results name a variant: with the kind of its base, where that is quantised."""
    return variant if quantize == "none" else f"{variant} quantize={quantize}"


class OnBase(Results):
    """The lines of a file that are of one kind of base.

    Args:
        file: the lines.
        steps: of the runs whose line does not say.
        quantize: the kind.
    """

    def __init__(self, file: Path, steps: int, quantize: str) -> None:
        super().__init__(file, steps)
        self._quantize = quantize

    def append(self, row: Result | Failure) -> None:
        """Add a line under the name with the kind."""
        super().append(row._replace(variant=on_base(row.variant, self._quantize)))

    def of(self, variant: str, task: str) -> list[Result]:
        """The runs of a variant on a task."""
        return super().of(on_base(variant, self._quantize), task)

    def failure(self, variant: str, task: str) -> Failure | None:
        """How a variant failed on a task, if it did."""
        return super().failure(on_base(variant, self._quantize), task)


def table(results: Sequence[Result], variants: Sequence[str]) -> str:
    """Markdown: for each task the best learning rate, mean and spread of the test loss, speed.

    Args:
        results: of any variants and tasks.
        variants: the names that the table has, in order; those without results are left out.
    """
    names = list(dict.fromkeys(task.task for task in results))
    head = ["method", "trained"]
    for name in names:
        head += [f"{name}: rate", "NLL", "ms a step"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for variant in variants:
        own = [result for result in results if result.variant == variant]
        if not own:
            continue
        cells = [f"`{variant}`" if variant != "base" else "base", f"{own[0].trained:,}"]
        for name in names:
            best = chosen([result for result in own if result.task == name])
            if not best:
                cells += ["", "", ""]
                continue
            tests = [result.test for result in best]
            spread = f" ± {statistics.stdev(tests):.4f}" if len(tests) > 1 else ""
            speed = statistics.median(result.seconds_per_step for result in best) * 1e3
            cells += [
                f"{best[0].learning_rate:.0e}" if best[0].learning_rate else "",
                f"{statistics.mean(tests):.4f}{spread}",
                f"{speed:.1f}" if speed else "",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def progress(groups: Mapping[str, str], study: Study, results: Results) -> str:
    """Markdown: for each variant its trainable parameters, and what there is of its runs.

    Args:
        groups: what a variant changes, by its name.
        study: on SmolLM2-135M.
        results: of any variants and tasks.
    """
    tasks = [task.name for task in study.config.tasks]
    lines = [f"| changed | variant | trained | {' | '.join(tasks)} |"]
    lines.append("| --- | --- | ---: |" + " --- |" * len(tasks))
    for variant in study.variants:
        settings = variant.settings()
        targets = settings.pop("targets", None)
        trained = count("smollm2-135m", variant.method, settings, targets).trained
        states = [_state(Job(variant.name, task), study, results) for task in tasks]
        name, group = variant.name.replace("|", r"\|"), groups.get(variant.name, "")
        lines.append(f"| {group} | `{name}` | {trained:,} | {' | '.join(states)} |")
    return "\n".join(lines)


def _state(job: Job, study: Study, results: Results) -> str:
    if loop.skipped(job, study, results):
        return "failed" if results.failure(*job) else "measured"
    done = len(results.of(*job))
    return f"{done} runs, unfinished" if done else "to run"


def best_of_methods(
    results: Sequence[Result], variants: Sequence[str], steps: int, seeds: int
) -> list[Summary]:
    """For each task and method the variant with the lowest validation loss, named by its method.

    Args:
        results: of any variants and tasks.
        variants: the names that count, each a method and its fields.
        steps: of a run.
        seeds: a variant with fewer is left out.
    """
    best: dict[tuple[str, str], Summary] = {}
    own = [result for result in results if result.variant in variants]
    for found in summarize(own, steps):
        method = found.variant.split()[0]
        known = best.get((found.task, method))
        if len(found.tests) < seeds or (known and known.validation.mean <= found.validation.mean):
            continue
        best[found.task, method] = found._replace(variant=method)
    return list(best.values())
