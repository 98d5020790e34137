"""Rows of the figures about losses: by count, by scheme, and with one setting that differs."""

import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from tera_jax.methods.tera import TeRA

from .. import command
from .analysed import Analysed
from .rank_rows import by_label, rank_share, ranks
from .table import Row

_SCHEME = ("tensorizations", "num_modes", "side", "zero_init_mode", "head_dim")
"""Fields that make a scheme."""
_TARGETS = "targets"
_NO_LOSS = "needs runs with a held-out loss in metrics.jsonl"


def by_count(runs: Sequence[Analysed]) -> list[Row] | str:
    """Loss against the count of trainable parameters, with the rank where it is known."""
    rows: list[Row] = []
    for label, own in by_label(runs).items():
        losses = [run.nll for run in own if run.nll is not None]
        if losses:
            rows.append(
                {"label": label, "method": own[0].member.method, "trained": own[0].trained}
                | _spread(losses)
                | {"rank_percent": _rank_percent(own)}
            )
    return rows or _NO_LOSS


def by_scheme(runs: Sequence[Analysed]) -> list[Row] | str:
    """Loss against count of TeRA runs that differ in the scheme alone."""
    rows: list[Row] = []
    for fixed, own in _varying(runs, _SCHEME, scheme_of).items():
        for scheme, same in own.items():
            losses = [run.nll for run in same if run.nll is not None]
            if losses:
                rows.append(
                    {"fixed": fixed, "scheme": scheme, "split": _split(same[0])}
                    | {"trained": same[0].trained, **_spread(losses)}
                )
    return rows or "needs TeRA runs with a held-out loss whose schemes alone differ"


def ranks_by_scheme(runs: Sequence[Analysed]) -> list[Row] | str:
    """Ranks of TeRA runs that differ in the scheme alone."""
    rows: list[Row] = []
    for fixed, own in _varying(runs, _SCHEME, scheme_of).items():
        for scheme, same in own.items():
            rows += [{"fixed": fixed, "scheme": scheme, **row} for row in ranks(same)]
    return rows or "needs TeRA runs whose schemes alone differ"


def by_init(runs: Sequence[Analysed]) -> list[Row] | str:
    """Losses of TeRA runs that differ in the factors' draws alone, a row a seed."""
    return _by_value(runs, ("init",), _field("init"), "factors (normal, orthogonal, identity)")


def by_targets(runs: Sequence[Analysed]) -> list[Row] | str:
    """Losses of TeRA runs that differ in the target layers alone, a row a seed."""
    return _by_value(
        runs, (_TARGETS,), lambda run: "+".join(run.member.config.method.targets), "target layers"
    )


def by_sharing(runs: Sequence[Analysed]) -> list[Row] | str:
    """Losses of TeRA runs that differ in the sharing of networks alone, a row a seed."""
    return _by_value(runs, ("sharing",), _field("sharing"), "sharing (shape, module, none)")


def elsewhere(runs: Sequence[Analysed]) -> list[Row] | str:
    """NLL of test sets before and after the training, a row a run."""
    rows: list[Row] = [
        {"label": run.member.label, "seed": run.member.seed, "frozen_seed": run.member.frozen_seed}
        | {"evaluation": name, "before": before, "after": after, "change": after - before}
        for run in runs
        for name, (before, after) in run.elsewhere.items()
    ]
    return rows or (
        "needs runs with the NLL of a file before and after the training: "
        f"{command.named('evaluate')} --workdir=RUN --file=OTHER --metrics exact loss --compare"
    )


def scheme_of(run: Analysed) -> str:
    """The tensorizations of the run's kernels, one for each shape."""
    settings = run.member.config.method.settings
    assert isinstance(settings, TeRA)
    schemes = [str(settings.scheme(layer)) for layer in run.member.adapter.layers]
    zero = settings.zero_init_mode
    return ", ".join(dict.fromkeys(schemes)) + ("" if zero == "longest" else f" zero {zero}")


def _split(run: Analysed) -> str:
    """Which sides of the kernels a scheme splits."""
    settings = run.member.config.method.settings
    assert isinstance(settings, TeRA)
    schemes = [settings.scheme(layer) for layer in run.member.adapter.layers]
    both = any(len(each.in_modes) > 1 and len(each.out_modes) > 1 for each in schemes)
    none = all(each.order == 2 for each in schemes)
    return "both sides" if both else "no side" if none else "one side"


def _by_value(
    runs: Sequence[Analysed], names: Sequence[str], value: Callable[[Analysed], str], what: str
) -> list[Row] | str:
    rows: list[Row] = [
        {"fixed": fixed, "value": each, "seed": run.member.seed}
        | {"frozen_seed": run.member.frozen_seed, "trained": run.trained, "nll": run.nll}
        for fixed, own in _varying(
            [run for run in runs if run.nll is not None], names, value
        ).items()
        for each, same in own.items()
        for run in same
    ]
    return rows or f"needs TeRA runs with a held-out loss that differ in {what} alone"


def _varying(
    runs: Sequence[Analysed], names: Sequence[str], value: Callable[[Analysed], str]
) -> dict[str, dict[str, list[Analysed]]]:
    """TeRA runs by all that is not ``names``, and then by a value, where there are several."""
    found: dict[str, dict[str, list[Analysed]]] = {}
    for run in runs:
        settings = run.member.config.method.settings
        if isinstance(settings, TeRA):
            rest = {name: of for name, of in _all_fields(run).items() if name not in names}
            key = json.dumps(rest, sort_keys=True, default=str)
            found.setdefault(key, {}).setdefault(value(run), []).append(run)
    several = {key: own for key, own in found.items() if len(own) > 1}
    return {_said(json.loads(key), several): several[key] for key in sorted(several)}


def _all_fields(run: Analysed) -> dict[str, Any]:
    config = run.member.config
    rate = None if run.member.tuned else config.optim.learning_rate
    training = {"rate": rate, "steps": config.loop.steps}
    return {**run.member.fields, _TARGETS: config.method.targets, **training}


def _said(fields: dict[str, Any], groups: dict[str, Any]) -> str:
    """The fields that are set and in which groups differ; of one group, nothing."""
    others = [json.loads(key) for key in groups]
    names = [
        name
        for name, value in fields.items()
        if value not in (None, []) and any(other[name] != value for other in others)
    ]
    return ", ".join(f"{name} {_text(fields[name])}" for name in names)


def _text(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _field(name: str) -> Callable[[Analysed], str]:
    return lambda run: str(getattr(run.member.config.method.settings, name))


def _rank_percent(runs: Sequence[Analysed]) -> float | None:
    share = rank_share(runs) if runs[0].kernels else runs[0].rank
    return None if share is None else 100 * share


def _spread(losses: Sequence[float]) -> dict[str, Any]:
    deviation = statistics.stdev(losses) if len(losses) > 1 else None
    return {"seeds": len(losses), "nll": statistics.fmean(losses), "deviation": deviation}
