"""Rotary positions in a ``config.json``: the keys of transformers 5 and of transformers 4."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tera_jax import json_files
from tera_jax.json_files import Key
from tera_jax.llama.family.rope_scaling import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    Scaling,
    YarnScaling,
)

_WHERE = "config.json"
_THETA = Key(float | None, None, least=1, below=1e15)
_SHARE = Key(float | None, None, above=0, least=0, below=1 + 1e-9)
_KINDS = {
    "rope_type": Key(str | None, None),
    "type": Key(str | None, None),
    "rope_theta": _THETA,
    "partial_rotary_factor": _SHARE,
}
_FACTOR = Key(float, least=1, below=1e6)
_FACTORS = Key(tuple[float, ...], above=0, below=1e6)
_POSITIVE = Key(float | None, None, above=0, below=1e6)
_LENGTH = Key(int, least=1, below=2**31)
_LENGTH_OR_NONE = Key(int | None, None, least=1, below=2**31)
_TABLES: dict[str, dict[str, Key]] = {
    "default": {},
    "llama3": {
        "factor": _FACTOR,
        "low_freq_factor": Key(float, above=0, below=1e6),
        "high_freq_factor": Key(float, above=0, below=1e6),
        "original_max_position_embeddings": _LENGTH,
    },
    "linear": {"factor": _FACTOR},
    "dynamic": {"factor": _FACTOR},
    "yarn": {
        "factor": _FACTOR,
        "original_max_position_embeddings": _LENGTH_OR_NONE,
        "attention_factor": _POSITIVE,
        "beta_fast": _POSITIVE,
        "beta_slow": _POSITIVE,
        "mscale": _POSITIVE,
        "mscale_all_dim": _POSITIVE,
        "truncate": Key(bool, True),
    },
    "longrope": {
        "short_factor": _FACTORS,
        "long_factor": _FACTORS,
        "factor": Key(float | None, None, least=1, below=1e6),
        "original_max_position_embeddings": _LENGTH_OR_NONE,
        "attention_factor": _POSITIVE,
    },
}
_ALIASES = {"su": "longrope"}
"""What the first files of Phi-3 call it."""


class Rope(NamedTuple):
    """Rotary positions: theta, how they are stretched, and which share of a head turns."""

    theta: float
    scaling: Scaling | None = None
    share: float = 1.0


@dataclasses.dataclass(frozen=True)
class Lengths:
    """What scalings take from the rest of the file: ``original`` where it stands outside of them.

    ``rotary_dim`` gives the entries of a head that turn, by their share.
    """

    longest: int
    original: int | None
    rotary_dim: Callable[[float], int]


def read_hf(raw: Mapping[str, Any], default_theta: float, lengths: Lengths, partial: bool) -> Rope:
    """Reads transformers 5's key, transformers 4's two keys, or both where they are equal.

    Args:
        raw: the file's content.
        default_theta: the family's.
        lengths: of the model.
        partial: whether the family knows heads of which a part turns.

    Raises:
        ValueError: for a rope type that is not known, and for keys that disagree.
    """
    theta = raw.get("rope_theta")
    share = raw.get("partial_rotary_factor")
    new, old = raw.get("rope_parameters"), raw.get("rope_scaling")
    plain = Rope(
        default_theta if theta is None else float(theta), None, 1.0 if share is None else share
    )
    found = [
        read_dict(key, value, plain, lengths, partial)
        for key, value in (("rope_parameters", new), ("rope_scaling", old))
        if value is not None
    ] or [plain]
    # rope_parameters is complete: without rope_scaling beside it, it may still disagree with theta.
    if any(other != found[0] for other in found) or theta not in (None, found[0].theta):
        raise ValueError(
            f"config keys rope_parameters={new!r}, rope_theta={theta!r} and rope_scaling={old!r} "
            "disagree; keep the ones that are right"
        )
    return found[0]


def read_dict(
    key: str, value: Mapping[str, Any], plain: Rope, lengths: Lengths, partial: bool
) -> Rope:
    """One object of these keys; what it does not say is as in ``plain``.

    Raises:
        ValueError: as :func:`read_hf`.
    """
    known = json_files.typed(_WHERE, value, _KINDS, others="ignore", within=f"{key}.")
    names = {known["rope_type"], known["type"]} - {None}
    kinds = {_ALIASES.get(name, name) for name in names} or {"default"}
    if len(kinds) > 1 or not kinds <= _TABLES.keys():
        raise ValueError(
            f"config key {key}={json_files.shown(dict(value))} is not supported: the rope type "
            f"must be one of {', '.join(_TABLES)}; choose another checkpoint"
        )
    (kind,) = kinds
    table = _TABLES[kind]
    rest = {name: given for name, given in value.items() if name not in _KINDS}
    needed = {name for name, row in table.items() if row.default is json_files.REQUIRED}
    # Without a family that rotates a part of a head, the share may only be 1.
    whole = partial or known["partial_rotary_factor"] in (None, 1)
    if not needed <= rest.keys() <= table.keys() or not whole:
        optional = sorted(table.keys() - needed)
        more = f", and may have {optional}" if optional else ""
        raise ValueError(
            f"config key {key}={json_files.shown(dict(value))} is not supported: beside rope_type "
            f"and rope_theta it must have exactly the keys {sorted(needed)}{more}; choose another "
            "checkpoint"
        )
    theta = plain.theta if known["rope_theta"] is None else float(known["rope_theta"])
    share = known["partial_rotary_factor"]
    share = plain.share if share is None else float(share)
    given = json_files.typed(_WHERE, rest, table, within=f"{key}.")
    return Rope(theta, _SCALINGS[kind](key, given, lengths, share), share)


def write_hf(scaling: Scaling | None) -> dict[str, Any]:
    """The keys of a scaling, without ``rope_theta``; the inverse of :func:`read_dict`."""
    if scaling is None:
        return {"rope_type": "default"}
    (kind,) = (name for name, class_ in _CLASSES.items() if isinstance(scaling, class_))
    fields = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(scaling).items()
        if name in _TABLES[kind]
    }
    return {"rope_type": kind, **fields}


def _yarn(key: str, given: dict[str, Any], lengths: Lengths, share: float) -> YarnScaling:
    def scale(by: float = 1.0) -> float:
        return 0.1 * by * math.log(given["factor"]) + 1.0

    factor = given["attention_factor"]
    if factor is None and given["mscale"] and given["mscale_all_dim"]:
        factor = scale(given["mscale"]) / scale(given["mscale_all_dim"])
    return YarnScaling(
        factor=given["factor"],
        original_max_position_embeddings=_original(given, lengths),
        attention_factor=scale() if factor is None else float(factor),
        beta_fast=float(given["beta_fast"] or 32),
        beta_slow=float(given["beta_slow"] or 1),
        truncate=given["truncate"],
    )


def _longrope(key: str, given: dict[str, Any], lengths: Lengths, share: float) -> LongRope:
    original = lengths.original or _original(given, lengths)
    pairs = lengths.rotary_dim(share) // 2
    for name in ("short_factor", "long_factor"):
        if len(given[name]) != pairs:
            raise ValueError(
                f"config key {key}.{name} has {len(given[name])} factors, but a head has {pairs} "
                "pairs that turn; fetch the file again"
            )
    factor = given["attention_factor"]
    if factor is None:
        stretch = given["factor"] or lengths.longest / original
        factor = math.sqrt(1 + math.log(max(stretch, 1.0)) / math.log(original))
    return LongRope(
        tuple(map(float, given["short_factor"])),
        tuple(map(float, given["long_factor"])),
        original,
        float(factor),
    )


def _original(given: dict[str, Any], lengths: Lengths) -> int:
    return int(given["original_max_position_embeddings"] or lengths.longest)


_CLASSES: dict[str, Any] = {
    "llama3": Llama3Scaling,
    "linear": LinearScaling,
    "dynamic": DynamicScaling,
    "yarn": YarnScaling,
    "longrope": LongRope,
}
_SCALINGS: dict[str, Callable[[str, dict[str, Any], Lengths, float], Scaling | None]] = {
    "default": lambda *_: None,
    "llama3": lambda key, given, lengths, share: Llama3Scaling(**given),
    "linear": lambda key, given, lengths, share: LinearScaling(given["factor"]),
    "dynamic": lambda key, given, lengths, share: DynamicScaling(given["factor"], lengths.longest),
    "yarn": _yarn,
    "longrope": _longrope,
}
