"""What is compared on SmolLM2-135M: the methods and the schemes of studies' files, open choices."""

from collections.abc import Sequence
from dataclasses import replace

from configs.studies import schemes, smollm2
from train.studies.variants import Variant, shown

_OUT = "tensorizations=576|24x24+576|12x16"
_IN = "tensorizations=24x24|576+24x24|192"
_VO = "targets=v_proj+o_proj"
_ALL = "targets=q_proj+k_proj+v_proj+o_proj+gate_proj+up_proj+down_proj"
_HIGH_ORDER = "tensorizations=4x144|8x8x9+4x144|12x16+4x144|8x12x16+12x128|8x8x9"
_TWO_A_SIDE = "tensorizations=8x72|9x64+8x72|4x48+8x72|12x128+12x128|9x64"
_BY_MODULE = "tensorizations=v_proj=576|12x16+o_proj=24x24|576"
_HEADS = "head_dim=64,num_modes=3"
_START = "rate=1e-1"
_BETTER = "rate=3e-2"
_LOW = "rate=1e-2"
_BANK = "rank=2,vector_length=192"
_UNNAMED = (_OUT, _IN, "axes=8+8+9")


def short_name(variant: Variant) -> str:
    """As results name it: ``tera``, ``tera gain=2.0`` or ``tera targets=v_proj+o_proj``.

    The axes and schemes that the sizes of the model ask for are not named.
    """
    fields = [f"{name}={shown(value)}" for name, value in variant.fields]
    return " ".join([variant.method, *(each for each in fields if each not in _UNNAMED)])


def variants(specs: Sequence[str]) -> tuple[Variant, ...]:
    """Variants under their short names."""
    found = map(Variant.parse, specs)
    return tuple(replace(each, label=short_name(each)) for each in found)


METHODS = variants(smollm2.METHODS)
"""With the ranks of ``configs/commonsense.py``, on the query and value projections."""

CHOICES = variants(
    (
        f"unilora:length=36840,{_ALL},{_BETTER}",
        f"unilora:length=36840,{_VO},{_BETTER}",
        f"unilora:length=40000,{_ALL},{_BETTER}",
        f"unires:length=36000,{_BETTER}",
        f"unires:length=36000,kernel_rank=2,{_BETTER}",
        f"unires:length=39160,{_BETTER}",
        f"unires:length=39160,kernel_rank=2,{_BETTER}",
        f"vera:{_VO},{_START}",
        f"fourierft:num_frequencies=614,{_START}",
        f"fourierft:num_frequencies=614,{_VO},{_START}",
        f"fourierft:num_frequencies=175,{_ALL},{_START}",
        f"vblora:{_BANK},num_vectors=46,{_LOW}",
        f"vblora:{_BANK},num_vectors=46,{_VO},{_LOW}",
        f"vblora:{_BANK},num_vectors=11,{_ALL},{_LOW}",
        f"ln_tuning:{_LOW}",
        f"tera:{_OUT},init=orthogonal,{_BETTER}",
        f"tera:{_OUT},structure=hadamard,init=orthogonal,{_BETTER}",
        f"tera:{_OUT},init=orthogonal,{_VO},{_BETTER}",
        f"tera:{_BY_MODULE},init=orthogonal,{_VO},{_BETTER}",
        f"tera:{_HEADS},init=orthogonal,{_VO},{_BETTER}",
        f"tera_iden:{_HEADS},{_VO},{_BETTER}",
        f"tera:{_HIGH_ORDER},init=orthogonal,{_ALL},{_BETTER}",
        f"tera:{_TWO_A_SIDE},init=orthogonal,{_ALL},{_BETTER}",
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
"""UniRes, other targets and methods at about 37,000 trainable parameters, and TeRA's choices.

TeRA's are orthogonal factors, the fast transforms, the input side split with the longest d zeroed
(as the output side has it), and what the paper leaves open. The last is from gain 1, one change at
a time. On value and output there are a scheme a module, which splits the sides of the heads, and
modes along heads: 9x8x8 and 3x8x8. On all seven modules there are a scheme of one long mode beside
short ones, and one of two modes a side.

The change that FourierFT starts from has the root mean square 150 sqrt(n / 2) / (in out): 0.0079
and 0.0238 on query and value, where this model's kernels have 0.20.
"""

SCHEMES = variants(schemes.METHODS)
"""The paper's ablations; what :data:`CHOICES` has too stands under the same name."""


def groups() -> dict[str, str]:
    """What each of :data:`SCHEMES` changes, by its name."""
    return {
        variant.name: group
        for group, specs in schemes.GROUPS.items()
        for variant in variants(specs)
    }
