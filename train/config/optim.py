"""The section of the optimizer."""

import dataclasses
import math
from typing import Literal

from .limits import require_above_zero, require_at_least, require_below_one


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The rule that moves d, the learning rate of each step, and the average of d.

    Patterns name arrays of d by their paths, such as ``layers/self_attn/v_proj/lora/b``: ``v_proj``
    and ``lora/b`` match there, and ``*`` stands for any letters. One that names none is an error
    that lists the paths.

    Attributes:
        learning_rate: the highest, after the warm-up.
        warmup_steps: steps in which the rate rises from zero.
        schedule: after the warm-up: ``linear`` and ``cosine`` fall to zero at the last step, in a
            line or along half a cosine. ``wsd`` stays, and falls in its last ``decay_steps``.
            ``constant`` stays, and a run can be made longer.
        weight_decay: decoupled, times the learning rate, of the trainable parameters alone.
        b1: decay of the first moment, at least 0 and below 1. Not for ``sgd``.
        b2: decay of the second moment, at least 0 and below 1; for ``lion``, which has no other
            moment, that of the first for the next step: its authors take 0.99. Not for ``sgd``.
        eps: added to the root of the second moment; above 0. For ``adamw`` alone.
        clip_norm: the gradient's global norm is kept below this, which is above 0; None leaves it.
        optimizer: ``adamw``, ``lion`` (the sign of a moment; a third to a tenth of AdamW's rate) or
            ``sgd``.
        momentum: of ``sgd``, at least 0 and below 1.
        decay_steps: of ``wsd``; None takes a tenth of the steps.
        decay_shape: of ``wsd``: ``linear``, ``cosine`` (half of one) or ``sqrt`` (one minus the
            root of the share that is behind).
        weight_decay_mask: patterns of the arrays that decay; none takes all.
        rate_factors: ``PATTERN=FACTOR`` each: the learning rate of these arrays is so many times
            the schedule's, and their weight decay too. The first that matches counts; a factor of 0
            trains them not at all.
        ema_decay: of an average of d over the steps, above 0 and below 1. The average is then what
            is measured and exported, and d is what trains. None takes none.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 100
    schedule: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float | None = None
    optimizer: Literal["adamw", "lion", "sgd"] = "adamw"
    momentum: float = 0.9
    decay_steps: int | None = None
    decay_shape: Literal["linear", "cosine", "sqrt"] = "linear"
    weight_decay_mask: tuple[str, ...] = ()
    rate_factors: tuple[str, ...] = ()
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        require_above_zero(
            learning_rate=self.learning_rate,
            eps=self.eps,
            clip_norm=self.clip_norm,
            ema_decay=self.ema_decay,
        )
        require_below_one(b1=self.b1, b2=self.b2, momentum=self.momentum)
        if self.ema_decay is not None:
            require_below_one(ema_decay=self.ema_decay)
        require_at_least(0, warmup_steps=self.warmup_steps, weight_decay=self.weight_decay)
        require_at_least(1, decay_steps=self.decay_steps)
        if self.schedule != "wsd":
            for name, default in (("decay_steps", None), ("decay_shape", "linear")):
                if (value := getattr(self, name)) != default:
                    raise ValueError(
                        f"{name} is {value!r}, but schedule {self.schedule!r} has none; set "
                        "schedule to 'wsd', or leave it out"
                    )
        if self.weight_decay_mask and not self.weight_decay:
            raise ValueError(
                f"weight_decay_mask is {self.weight_decay_mask}, but weight_decay is 0; set it "
                "above 0, or leave the mask out"
            )
        if "" in self.weight_decay_mask:
            raise ValueError("weight_decay_mask has an empty pattern; name an array of d")
        _ = self.factors

    @property
    def factors(self) -> tuple[tuple[str, float], ...]:
        """The patterns of ``rate_factors`` and their factors.

        Raises:
            ValueError: for an entry that is none.
        """
        return tuple(map(_parted, self.rate_factors))


def _parted(entry: str) -> tuple[str, float]:
    pattern, _, text = entry.rpartition("=")
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not pattern or not factor >= 0:
        raise ValueError(
            f"rate_factors has {entry!r}; write PATTERN=FACTOR, such as v_proj=0.1, with a factor "
            "of at least 0"
        )
    require_at_least(0, rate_factors=factor)
    return pattern, factor
