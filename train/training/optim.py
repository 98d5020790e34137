"""The optimizer: AdamW under a linear warm-up, and a linear or cosine decay or none."""

import jax
import numpy as np
import optax
from jaxtyping import Float32

from ..config import OptimConfig


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """From 0 to the learning rate in ``warmup_steps``, then to 0 at ``steps``; the first is 0.

    The decay is a line, or half a cosine. A constant schedule stays at the learning rate, and does
    not depend on ``steps``.
    """
    if config.schedule == "constant" and not config.warmup_steps:  # a line of no length stays at 0
        return optax.schedules.constant_schedule(config.learning_rate)
    if config.schedule == "constant":
        return optax.schedules.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    warmup = min(config.warmup_steps, steps)
    rise = optax.schedules.linear_schedule(0.0, config.learning_rate, warmup)
    if config.schedule == "cosine":
        fall = optax.schedules.cosine_decay_schedule(config.learning_rate, max(1, steps - warmup))
    else:
        fall = optax.schedules.linear_schedule(config.learning_rate, 0.0, steps - warmup)
    return optax.schedules.join_schedules([rise, fall], [warmup])


def rates(config: OptimConfig, steps: int) -> Float32[np.ndarray, " steps"]:
    """The schedule's rate of each of ``steps`` steps."""
    with jax.numpy_dtype_promotion("standard"):
        found = schedule(config, steps)(np.arange(steps))
    return np.broadcast_to(np.asarray(found, np.float32), (steps,))


def optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """AdamW for ``steps`` updates of the ``d`` collection."""
    return adamw(config, schedule(config, steps))


def adamw(
    config: OptimConfig, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """AdamW at any learning rate: ``config.schedule`` and what it reads do not count.

    Args:
        config: of the other settings.
        learning_rate: of the next update, which may be traced; or a schedule.
    """
    rule = optax.adamw(
        learning_rate,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    if config.clip_norm is None:
        return rule
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), rule)
