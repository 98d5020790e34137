"""What is compared on SmolLM2-135M: methods, and TeRA's open choices."""

from typing import Any, NamedTuple

_SCHEMES = ("576|24x24", "576|12x16")
_ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_SPLIT_INPUT = ("24x24|576", "24x24|192")


class Variant(NamedTuple):
    """A method, fields of its configuration, and where on the grid its climb begins."""

    method: str
    start: float
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        """``tera``, ``tera gain=2.0`` or ``tera targets=v_proj+o_proj``."""
        shown = {k: v for k, v in self.fields.items() if not isinstance(v, tuple)}
        if "targets" in self.fields:
            shown["targets"] = "+".join(self.fields["targets"])
        return " ".join([self.method, *(f"{key}={value}" for key, value in shown.items())])


def _tera(method: str = "tera", start: float = 1e-1, **fields: Any) -> Variant:
    return Variant(method, start, {"tensorizations": _SCHEMES} | fields)


METHODS = (
    Variant("full", 1e-4, {}),
    Variant("lora", 1e-3, {}),
    Variant("pissa", 1e-3, {}),
    Variant("dora", 1e-3, {}),
    Variant("toplora", 1e-3, {}),
    Variant("hira", 1e-2, {}),
    Variant("mora", 1e-3, {}),
    Variant("quanta", 1e-3, {"axes": (8, 8, 9)}),
    Variant("loretta", 3e-3, {}),
    Variant("vera", 1e-2, {}),
    Variant("unilora", 3e-2, {"length": 36_840}),
    Variant("prompt", 1e-1, {}),
    Variant("p_tuning", 1e-3, {}),
    _tera(),
    _tera("tera_iden"),
    _tera("tera_unique"),
)
"""With the ranks of ``configs/commonsense.py``, on the query and value projections."""

_UNSCALED: dict[str, Any] = {"gain": 1.0}
_ORTHOGONAL: dict[str, Any] = {"start": 3e-2, "init": "orthogonal"}
_LONGEST: dict[str, Any] = {
    "start": 3e-2,
    "side": "in",
    "zero_init_mode": "longest",
    "tensorizations": _SPLIT_INPUT,
}
CHOICES = (
    Variant("unilora", 3e-2, {"length": 36_840, "targets": _ALL}),
    _tera(**_ORTHOGONAL),
    _tera(structure="hadamard", **_ORTHOGONAL),
    _tera(**_ORTHOGONAL, targets=("v_proj", "o_proj")),
    _tera(structure="hadamard_factor"),
    _tera(structure="hadamard"),
    _tera(**_LONGEST),
    _tera("tera_iden", **_LONGEST),
    _tera(**_UNSCALED),
    _tera(gain=1 / 16),
    _tera(gain=256.0),
    _tera(**_UNSCALED, zero_init_mode=2),
    _tera(**_UNSCALED, zero_init_mode=3),
    _tera(**_UNSCALED, init="uniform"),
    _tera(**_UNSCALED, sharing="module"),
    _tera(**_UNSCALED, side="in", tensorizations=_SPLIT_INPUT),
    _tera("tera_iden", **_UNSCALED),
    _tera("tera_iden", **_UNSCALED, side="in", tensorizations=_SPLIT_INPUT),
    _tera("tera_unique", **_UNSCALED),
)
"""Uni-LoRA on all modules, orthogonal factors, the fast transforms, the input side split with the
longest d zeroed, as the output side has it, and what the paper leaves open.

The last is from gain 1, one change at a time.
"""

PLAIN = Variant("lora", 1e-3, {"rank": 1})
"""Before its first step it is the base."""
