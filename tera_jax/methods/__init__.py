"""The table of fine-tuning methods."""

from tera_jax.methods.base import Method, NotMergeableError, TargetLayer
from tera_jax.methods.dora import DoRA
from tera_jax.methods.fourierft import FourierFT
from tera_jax.methods.full import Full
from tera_jax.methods.hira import HiRA
from tera_jax.methods.ia3 import IA3
from tera_jax.methods.ln_tuning import LNTuning
from tera_jax.methods.lora import LoRA
from tera_jax.methods.loretta import LoRETTA
from tera_jax.methods.mora import MoRA
from tera_jax.methods.pissa import PiSSA
from tera_jax.methods.prompt import PromptTuning, PTuning
from tera_jax.methods.quanta import QuanTA
from tera_jax.methods.randlora import RandLoRA
from tera_jax.methods.tera import TeRA, TeRAIden, TeRAUnique
from tera_jax.methods.toplora import TopLoRA
from tera_jax.methods.unilora import UniLoRA
from tera_jax.methods.unires import UniRes
from tera_jax.methods.vblora import VBLoRA
from tera_jax.methods.vera import VeRA

__all__ = ["TABLE", "Method", "NotMergeableError", "TargetLayer", "method_class"]

TABLE: dict[str, type[Method]] = {
    "full": Full,
    "prompt": PromptTuning,
    "p_tuning": PTuning,
    "tera": TeRA,
    "tera_iden": TeRAIden,
    "tera_unique": TeRAUnique,
    "lora": LoRA,
    "pissa": PiSSA,
    "dora": DoRA,
    "toplora": TopLoRA,
    "vera": VeRA,
    "randlora": RandLoRA,
    "unilora": UniLoRA,
    "unires": UniRes,
    "vblora": VBLoRA,
    "fourierft": FourierFT,
    "hira": HiRA,
    "ia3": IA3,
    "ln_tuning": LNTuning,
    "mora": MoRA,
    "quanta": QuanTA,
    "loretta": LoRETTA,
}
"""By the name that flags, files and :func:`tera_jax.adapt` have for a method."""


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ValueError: for an unknown method.
    """
    if name not in TABLE:
        raise ValueError(f"method {name!r}; choose one of {sorted(TABLE)}")
    return TABLE[name]
