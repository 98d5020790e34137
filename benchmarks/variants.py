"""What is compared on SmolLM2-135M: the methods of the study's file, and TeRA's open choices."""

from collections.abc import Sequence
from dataclasses import replace

from configs.studies import smollm2
from train.studies.variants import Variant, shown

_OUT = "tensorizations=576|24x24+576|12x16"
_IN = "tensorizations=24x24|576+24x24|192"
_ALL = "q_proj+k_proj+v_proj+o_proj+gate_proj+up_proj+down_proj"
_START = "rate=1e-1"
_BETTER = "rate=3e-2"


def short_name(variant: Variant) -> str:
    """As results name it: ``tera``, ``tera gain=2.0`` or ``tera targets=v_proj+o_proj``.

    Schemes and axes, which the sizes of the model ask for, are not named.
    """
    fields = [
        f"{name}={shown(value)}"
        for name, value in variant.fields
        if name == "targets" or not isinstance(value, tuple)
    ]
    return " ".join([variant.method, *fields])


def variants(specs: Sequence[str]) -> tuple[Variant, ...]:
    """Variants under their short names."""
    found = map(Variant.parse, specs)
    return tuple(replace(each, label=short_name(each)) for each in found)


METHODS = variants(smollm2.METHODS)
"""With the ranks of ``configs/commonsense.py``, on the query and value projections."""

CHOICES = variants(
    (
        f"unilora:length=36840,targets={_ALL},{_BETTER}",
        f"unilora:length=36840,targets=v_proj+o_proj,{_BETTER}",
        f"unires:length=36000,{_BETTER}",
        f"unires:length=36000,kernel_rank=2,{_BETTER}",
        f"unires:length=39160,{_BETTER}",
        f"unires:length=39160,kernel_rank=2,{_BETTER}",
        f"vera:targets=v_proj+o_proj,{_START}",
        f"tera:{_OUT},init=orthogonal,{_BETTER}",
        f"tera:{_OUT},structure=hadamard,init=orthogonal,{_BETTER}",
        f"tera:{_OUT},init=orthogonal,targets=v_proj+o_proj,{_BETTER}",
        f"tera:{_OUT},structure=hadamard_factor,{_START}",
        f"tera:{_OUT},structure=hadamard,{_START}",
        f"tera:{_IN},side=in,zero_init_mode=longest,{_BETTER}",
        f"tera_iden:{_IN},side=in,zero_init_mode=longest,{_BETTER}",
        f"tera:{_OUT},gain=1.0,{_START}",
        f"tera:{_OUT},gain=0.0625,{_START}",
        f"tera:{_OUT},gain=256.0,{_START}",
        f"tera:{_OUT},gain=1.0,zero_init_mode=2,{_START}",
        f"tera:{_OUT},gain=1.0,zero_init_mode=3,{_START}",
        f"tera:{_OUT},gain=1.0,init=uniform,{_START}",
        f"tera:{_OUT},gain=1.0,sharing=module,{_START}",
        f"tera_iden:{_OUT},gain=1.0,{_START}",
        f"tera_unique:{_OUT},gain=1.0,{_START}",
    )
)
"""Other targets of Uni-LoRA and VeRA, UniRes, and TeRA's choices.

These are orthogonal factors, the fast transforms, the input side split with the longest d zeroed
(as the output side has it), and what the paper leaves open. The last is from gain 1, one change at
a time.
"""
