"""How well the rules of ``train.plan_scheme`` predict the tuned loss of TeRA's schemes.

    python -m benchmarks.planner

The schemes are the variants of TeRA in ``benchmarks/results/methods.jsonl`` on the base in
bfloat16, each at its best learning rate, with the test loss over its seeds. Printed is Spearman's
correlation of the loss with the order of the rules, and with two trivial predictors: the count of
trainable parameters and the length of the d that starts at zero. 1 is a perfect order.

The rules were made after these runs, so that their figure on these tasks is no prediction. The task
of ``benchmarks/results/held_out.jsonl``, Commonsense, was not seen by them: that figure is one, of
the few schemes that it has.
"""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from scipy import stats

from benchmarks.commonsense import rows as held_out
from benchmarks.variants import CHOICES, METHODS
from configs.studies import smollm2
from tera_jax.adapters.targets import choose
from tera_jax.methods import TABLE, TeRA
from train import command
from train.params import shapes
from train.planning import candidates, rules
from train.studies.reports.summaries import summarize
from train.studies.results import Result, Results
from train.studies.variants import Variant
from train.text_table import aligned

RESULTS = Path(__file__).parent / "results" / "methods.jsonl"
HELD_OUT = Path(__file__).parent / "results" / "held_out.jsonl"
UNSEEN = "Commonsense"
"""The task that the rules were not made from."""
MODEL = "smollm2-135m"
TARGET = 0.8
"""Of the correlation."""
_PUBLISHED_INIT = {"tera": "normal", "tera_unique": "normal", "tera_iden": "identity"}
"""Of the recipe of this study."""
_NOT_PLANNED = ("gain", "sharing", "structure")
"""Fields that the planner leaves at their defaults."""


class Known(NamedTuple):
    """A scheme, what is known of it before training, and its loss.

    Attributes:
        variant: its name in the results.
        planned: whether the planner could propose it: no other field differs from its default.
        order: by the rules; the smaller the better.
        trained: trainable parameters.
        zeroed: the mean length of the d that starts at zero.
        losses: of each task.
    """

    variant: str
    planned: bool
    order: tuple[object, ...]
    trained: int
    zeroed: float
    losses: dict[str, float]


class Correlation(NamedTuple):
    """Spearman's, of one task over so many schemes."""

    schemes: str
    task: str
    number: int
    rule: float
    trained: float
    zeroed: float


def unseen(file: Path) -> dict[str, float]:
    """The NLL of each variant on the held-out task, the mean over its sub-tasks."""
    runs = [each for row in held_out.read(file) for each in row.by_task()]
    losses: dict[str, list[float]] = {}
    for each in summarize(runs, max(run.steps for run in runs)):
        losses.setdefault(each.variant, []).append(each.test.mean)
    return {variant: statistics.fmean(each) for variant, each in losses.items()}


def known(
    results: Sequence[Result], variants: Sequence[Variant], more: Mapping[str, float]
) -> list[Known]:
    """The schemes of TeRA that have results.

    Args:
        results: of a study on SmolLM2-135M.
        variants: of that study; other methods than TeRA's are left out.
        more: the loss of a variant on the task that the rules were not made from.
    """
    losses: dict[str, dict[str, float]] = {}
    for each in summarize(results, smollm2.get_config().steps):
        losses.setdefault(each.variant, {})[each.task] = each.test.mean
    for variant, loss in more.items():
        losses.setdefault(variant, {})[UNSEEN] = loss
    own = [each for each in variants if issubclass(TABLE[each.method], TeRA)]
    return [_known(each, losses[each.name]) for each in own if each.name in losses]


def _known(variant: Variant, losses: dict[str, float]) -> Known:
    _, found = shapes.sizes(MODEL)
    settings = {"init": _PUBLISHED_INIT[variant.method], **variant.settings()}
    targets = settings.pop("targets", TeRA.default_targets)
    method = TeRA(**settings)
    layers = choose(found.linear, targets, "linear layer", found)
    layout = candidates.Layout(
        _placement(targets), (), "", layers, tuple(method.scheme(layer) for layer in layers)
    )
    candidate = candidates.Candidate(layout, method.zero_init_mode, "orthogonal")
    order = rules.order(
        method.init,
        candidate.is_longest_zeroed,
        layout.targets,
        candidate.zeroed,
        layout.trained,
    )
    usual = {field.name: field.default for field in dataclasses.fields(TeRA)}
    planned = variant.method != "tera_unique" and all(
        getattr(method, name) == usual[name] for name in _NOT_PLANNED
    )
    return Known(variant.name, planned, order, layout.trained, candidate.zeroed, losses)


def _placement(targets: Sequence[str]) -> tuple[str, ...]:
    """As the rules name it."""
    return ("all-linear",) if len(targets) == 7 else tuple(targets)


def correlations(schemes: Sequence[Known]) -> list[Correlation]:
    """Of all schemes and of those that the planner could propose, on each task."""
    rows = []
    parts = {"all": schemes, "planned": [each for each in schemes if each.planned]}
    for name, part in parts.items():
        for task in dict.fromkeys(task for each in part for task in each.losses):
            own = [each for each in part if task in each.losses]
            losses = [each.losses[task] for each in own]
            orders = sorted({each.order for each in own})
            predicted: dict[str, list[float]] = {
                "rule": [orders.index(each.order) for each in own],
                "trained": [-each.trained for each in own],
                "zeroed": [-each.zeroed for each in own],
            }
            found = {key: _spearman(values, losses) for key, values in predicted.items()}
            rows.append(Correlation(name, task, len(own), **found))
    return rows


def _spearman(predicted: Sequence[float], losses: Sequence[float]) -> float:
    """0 where the predictor tells no two apart."""
    if len({*predicted}) == 1:
        return 0.0
    return float(stats.spearmanr(predicted, losses).statistic)


def predicts(rows: Sequence[Correlation]) -> bool:
    """Whether the rules reach the target and beat both trivial predictors on the unseen task."""
    own = [row for row in rows if row.task == UNSEEN]
    return bool(own) and all(
        row.rule >= TARGET and row.rule > max(row.trained, row.zeroed) for row in own
    )


def main() -> None:
    """Print the table and a verdict."""
    parser = command.parser(main)
    parser.add_argument("--results", type=Path, default=RESULTS, help="lines of the study")
    parser.add_argument("--json", action="store_true", help="the schemes and correlations")
    args = parser.parse_args()
    results = Results(args.results, smollm2.get_config().steps)
    schemes = known(results.runs, (*METHODS, *CHOICES), unseen(HELD_OUT))
    rows = correlations(schemes)
    if args.json:
        tree = {
            "schemes": [each._asdict() for each in schemes],
            "rows": [r._asdict() for r in rows],
        }
        print(json.dumps(tree, indent=2))
        return
    head = ["schemes", "task", "count", "rule", "trained", "length of the zeroed d"]
    body = [[*row[:2], str(row.number), *(f"{each:.2f}" for each in row[3:])] for row in rows]
    print("\n".join(aligned([head, *body])))
    verdict = "reach" if predicts(rows) else "do not reach"
    print(f"on {UNSEEN} the rules {verdict} the target: {TARGET}, and above both others")


if __name__ == "__main__":
    command.run(main)
