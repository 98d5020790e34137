"""The learning rate of each step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float32

from ...config import OptimConfig

_DECAY_SHARE = 0.1
"""Of the steps, the decay of ``wsd`` where its length is not given."""


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """From 0 to the learning rate in ``warmup_steps``, then as ``config.schedule`` says.

    The first rate is 0. ``linear`` and ``cosine`` fall from there to 0 at ``steps``. ``wsd`` stays,
    and falls to 0 in its last ``decay_steps``. A constant schedule stays at the learning rate, and
    does not depend on ``steps``.
    """
    rate = config.learning_rate
    if config.schedule == "constant" and not config.warmup_steps:  # a line of no length stays at 0
        return optax.schedules.constant_schedule(rate)
    if config.schedule == "constant":
        return optax.schedules.linear_schedule(0.0, rate, config.warmup_steps)
    decay = min(decay_steps(config, steps), steps) if config.schedule == "wsd" else 0
    warmup = min(config.warmup_steps, steps - decay)
    rise = optax.schedules.linear_schedule(0.0, config.learning_rate, warmup)
    if config.schedule == "wsd":
        stable = optax.schedules.constant_schedule(rate)
        parts, ends = [rise, stable, _fall(config, decay)], [warmup, steps - decay]
        return optax.schedules.join_schedules(parts, ends)
    if config.schedule == "cosine":
        fall = optax.schedules.cosine_decay_schedule(rate, max(1, steps - warmup))
    else:
        fall = optax.schedules.linear_schedule(rate, 0.0, steps - warmup)
    return optax.schedules.join_schedules([rise, fall], [warmup])


def _fall(config: OptimConfig, decay: int) -> optax.Schedule:
    """From the learning rate to 0 in ``decay`` steps."""
    rate = config.learning_rate
    if config.decay_shape == "linear":
        return optax.schedules.linear_schedule(rate, 0.0, decay)
    if config.decay_shape == "cosine":
        return optax.schedules.cosine_decay_schedule(rate, decay)
    return lambda count: rate * (1 - jnp.sqrt(jnp.clip(count / decay, 0, 1)))


def decay_steps(config: OptimConfig, steps: int) -> int:
    """The length of ``wsd``'s decay in a run of ``steps``: a tenth of it where none is given."""
    return config.decay_steps or max(1, round(_DECAY_SHARE * steps))


def require_schedule(config: OptimConfig, steps: int) -> None:
    """Raise ``ValueError`` where warm-up and decay of ``wsd`` exceed a run's ``steps``."""
    if config.schedule != "wsd":
        return
    decay = decay_steps(config, steps)
    if config.warmup_steps + decay > steps:
        raise ValueError(
            f"config.optim.schedule 'wsd' warms up for {config.warmup_steps} steps and decays for "
            f"{decay}, but the run has {steps}; lower config.optim.warmup_steps or "
            "config.optim.decay_steps, or train longer"
        )


def rates(config: OptimConfig, steps: int) -> Float32[np.ndarray, " steps"]:
    """The schedule's rate of each of ``steps`` steps."""
    with jax.numpy_dtype_promotion("standard"):
        found = schedule(config, steps)(np.arange(steps))
    return np.broadcast_to(np.asarray(found, np.float32), (steps,))
