r"""The paper's ablations on SmolLM2-135M: TeRA with one factor at a time away from the default.

    python -m benchmarks.methods --schemes --list --output=benchmarks/results/methods.jsonl
    python -m benchmarks.methods --schemes --model=SmolLM2-135M-Instruct.gguf --gsm8k=gsm8k \
        --convai2=valid_self_original_no_cands.txt --output=benchmarks/results/methods.jsonl
    python -m train.compare --config=schemes --model=SmolLM2-135M-Instruct.gguf \
        --data GSM8K=gsm8k/train.json ConvAI2=valid_self_original_no_cands.txt \
        --output=runs/schemes

The first command says what ``methods.jsonl`` has already, the second runs the rest. The third makes
a study of its own directory. Tasks and training are those of ``smollm2.py``.

The default is orthogonal factors, ``576|24x24`` and ``576|12x16`` on query and value, one frozen
network for each shape. The longest d starts at zero. The sides of the kernels are 576 = 2^6 9 and
192 = 2^6 3, and no powers of two. Where the paper has 2^n, here stand six modes of 2 and one of 9
or 3.
"""

import ml_collections

from train.studies import schema

_INIT = "init=orthogonal"
_START = f"{_INIT},rate=3e-2"
_OUT = "tensorizations=576|24x24+576|12x16"
_OUTPUTS = (
    ("576", "192"),
    ("8x8x9", "4x6x8"),
    ("2x2x3x3x4x4", "2x2x2x2x3x4"),
    ("2x2x2x2x2x2x9", "2x2x2x2x2x2x3"),
)
"""Modes of the outputs of query and value: orders 2, 4, 7 and 8 with whole inputs."""
_INPUTS = ("24x24", "8x8x9", "2x2x3x3x4x4", "2x2x2x2x2x2x9")
"""Modes of the inputs: orders 3, 4, 7 and 8 with whole outputs."""
_BOTH = (("24x24", "12x16"), ("8x8x9", "4x6x8"), ("2x2x2x2x2x2x9", "2x2x2x2x2x2x3"))
"""Orders 4, 6 and 14."""
_LINEAR = "+".join(f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down"))
_ALL = "tensorizations=576|24x24+576|12x16+576|32x48+1536|24x24"
_AT_EQUAL_COUNT = "tensorizations=4x144|8x8x9+4x144|12x16+4x144|8x12x16+12x128|8x8x9"


def _both(inputs: str, query: str, value: str) -> str:
    return f"tensorizations={inputs}|{query}+{inputs}|{value}"


GROUPS: dict[str, tuple[str, ...]] = {
    "default": (f"tera:{_OUT},{_START}",),
    "order, outputs split": tuple(f"tera:{_both('576', *modes)},{_START}" for modes in _OUTPUTS),
    "order, inputs split": tuple(
        f"tera:{_both(modes, '576', '192')},side=in,{_START}" for modes in _INPUTS
    ),
    "order, both sides split": tuple(f"tera:{_both(modes[0], *modes)},{_START}" for modes in _BOTH),
    "targets": (
        f"tera:tensorizations=576|24x24,{_INIT},targets=q_proj,rate=3e-2",
        f"tera:tensorizations=576|12x16,{_INIT},targets=v_proj,rate=3e-2",
        f"tera:{_OUT},{_INIT},targets=v_proj+o_proj,rate=3e-2",
        f"tera:{_ALL},{_INIT},targets={_LINEAR},rate=3e-2",
        f"tera:{_AT_EQUAL_COUNT},{_INIT},targets={_LINEAR},rate=3e-2",
    ),
    "init": (f"tera:{_OUT},rate=1e-1", f"tera_iden:{_OUT},rate=1e-1"),
    "sharing": (
        f"tera:{_OUT},sharing=module,{_START}",
        f"tera_unique:{_OUT},{_START}",
    ),
    "as published, gain 1": (
        f"tera:{_OUT},gain=1.0,rate=1e-1",
        f"tera:{_OUT},gain=1.0,sharing=module,rate=1e-1",
        f"tera_unique:{_OUT},gain=1.0,rate=1e-1",
        f"tera_iden:{_OUT},gain=1.0,rate=1e-1",
    ),
    "as published, sides split": (
        f"tera:{_both('24x24', '576', '192')},side=in,zero_init_mode=longest,rate=3e-2",
        f"tera:{_both('24x24', *_BOTH[0])},rate=3e-2",
        f"tera:{_both(_BOTH[2][0], *_BOTH[2])},rate=3e-2",
    ),
}
"""By the factor that differs from the default; the last two differ from the paper's TeRA."""

METHODS = tuple(spec for group in GROUPS.values() for spec in group)


def get_config() -> ml_collections.ConfigDict:
    """The study; flags give the model and the two files."""
    smollm2 = schema.load("smollm2")
    baseline = METHODS[0].removesuffix(",rate=3e-2")
    return ml_collections.ConfigDict({**smollm2, "methods": METHODS, "baseline": baseline})
