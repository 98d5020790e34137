r"""How well ``train.plan_scheme`` predicts tuned losses of TeRA's schemes, by rules and short runs.

    python -m benchmarks.planner
    python -m benchmarks.planner --probe --model=SmolLM2-135M-Instruct.gguf --gsm8k=gsm8k \
        --convai2=valid_self_original_no_cands.txt --output=benchmarks/results/probes.jsonl

The schemes are the variants of TeRA in ``benchmarks/results/methods.jsonl`` on the base in
bfloat16, each at its best learning rate, with the test loss over its seeds. Printed is Spearman's
correlation of the loss with the order of the rules, and with two trivial predictors: the count of
trainable parameters and the length of the d that starts at zero. 1 is a perfect order.

The rules were made after these runs, so that their figure on these tasks is no prediction. The task
of ``benchmarks/results/held_out.jsonl``, Commonsense, was not seen by them: that figure is one, of
the few schemes that it has. So is that of the schemes of ``configs/studies/schemes.py`` which were
run after the rules were made: "held out".

``--probe`` trains each scheme that has a tuned loss on both tasks for the planner's first short run
(``benchmarks/short_runs.py``). Each run is a line of ``--output`` as it ends, and is not run again.
A second table has the schemes that have both short runs: their validation loss as a predictor,
beside the rules and both trivial ones on the same schemes.
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import short_runs
from benchmarks.commonsense import rows as held_out
from benchmarks.correlations import (
    ENOUGH,
    TARGET,
    UNSEEN,
    Correlation,
    Known,
    correlations,
    not_fitted,
    predicts,
    probed,
    probes_predict,
    tuned,
)
from benchmarks.short_runs import TASKS
from benchmarks.variants import CHOICES, METHODS, SCHEMES
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
PROBES = Path(__file__).parent / "results" / "probes.jsonl"
MODEL = "smollm2-135m"
VARIANTS = tuple({each.name: each for each in (*SCHEMES, *METHODS, *CHOICES)}.values())
"""Of all studies, each name once; where two lists have a name, its settings are the same."""
_SEEN = {each.name for each in (*METHODS, *CHOICES)}
"""Those whose runs the rules were made from."""
_PUBLISHED_INIT = {"tera": "normal", "tera_unique": "normal", "tera_iden": "identity"}
"""Of the recipe of this study."""
_NOT_PLANNED = ("gain", "sharing", "structure")
"""Fields that the planner leaves at their defaults."""


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
    return Known(
        variant.name,
        planned,
        order,
        layout.trained,
        candidate.zeroed,
        losses,
        is_held_out=variant.name not in _SEEN,
    )


def _placement(targets: Sequence[str]) -> tuple[str, ...]:
    """As the rules name it."""
    return ("all-linear",) if len(targets) == 7 else tuple(targets)


def main() -> None:
    """Run what is to be run, print the tables and a verdict of each."""
    parser = command.parser(main)
    parser.add_argument("--results", type=Path, default=RESULTS, help="lines of the study")
    parser.add_argument("--json", action="store_true", help="the schemes and correlations")
    parser.add_argument("--probe", action="store_true", help="make the short runs that are missing")
    parser.add_argument("--model", help="of these runs, a SmolLM2-135M: GGUF file or directory")
    parser.add_argument("--gsm8k", help="directory of train.json")
    parser.add_argument("--convai2", help="ConvAI2's dialogues in ParlAI's text format")
    parser.add_argument("--output", type=Path, default=PROBES, help="JSON lines, one a short run")
    parser.add_argument("--retry", action="store_true", help="run again what failed before")
    args = parser.parse_args()
    results = Results(args.results, smollm2.get_config().steps)
    schemes = known(results.runs, VARIANTS, unseen(HELD_OUT))
    failed = _probe(parser, args, schemes) if args.probe else ()
    study = short_runs.study("-", dict.fromkeys(TASKS, "-"), _variants(schemes))
    short = probed(schemes, short_runs.losses(study, args.output))
    rows, more = correlations(schemes), correlations(short)
    if args.json:
        tree = {
            "schemes": [{**each._asdict(), "probes": {**each.probes}} for each in schemes],
            "rows": [r._asdict() for r in rows],
            "probed": [r._asdict() for r in more],
        }
        print(json.dumps(tree, indent=2))
    else:
        _print(rows, more)
    if failed:
        raise SystemExit(f"failed: {'; '.join(failed)}")


def _probe(
    parser: argparse.ArgumentParser, args: argparse.Namespace, schemes: Sequence[Known]
) -> tuple[str, ...]:
    """What failed."""
    for flag in ("model", "gsm8k", "convai2"):
        if not getattr(args, flag):
            parser.error(f"--{flag} is missing, which --probe needs")
    paths = {"GSM8K": f"{args.gsm8k}/train.json", "ConvAI2": args.convai2}
    study = short_runs.study(args.model, paths, _variants(schemes))
    return short_runs.perform(study, args.output, args.retry)


def _variants(schemes: Sequence[Known]) -> list[Variant]:
    """Those that have a loss on both tasks."""
    by_name = {each.name: each for each in VARIANTS}
    return [by_name[each.variant] for each in tuned(schemes)]


def _print(rows: Sequence[Correlation], probed: Sequence[Correlation]) -> None:
    head = ["schemes", "task", "count", "rule", "trained", "length of the zeroed d"]
    print("\n".join(aligned([head, *(_cells(row) for row in rows)])))
    verdict = "reach" if predicts(rows) else "do not reach"
    where = dict.fromkeys(f"{row.number} schemes of {row.task}" for row in not_fitted(rows))
    print(f"the rules {verdict} the target, {TARGET} and above both others: {', '.join(where)}")
    if probed:
        head.append("short run")
        print("\n".join(["", *aligned([head, *(_cells(row) for row in probed)])]))
        verdict = "reach" if probes_predict(probed) else "do not reach"
        print(f"short runs {verdict} the target: {TARGET} on {ENOUGH} schemes or more, likewise")


def _cells(row: Correlation) -> list[str]:
    given = [each for each in row[3:] if each is not None]
    return [*row[:2], str(row.number), *(f"{each:.2f}" for each in given)]


if __name__ == "__main__":
    command.run(main)
