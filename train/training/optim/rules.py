"""The rule that turns a gradient into an update of ``d``: AdamW, Lion, or SGD with momentum."""

import functools

import optax

from ...config import OptimConfig
from . import groups
from .average import averages
from .schedules import schedule


def optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """The optimizer for ``steps`` updates of the ``d`` collection."""
    rule = update_rule(config, schedule(config, steps))
    return rule if config.ema_decay is None else optax.chain(rule, averages(config.ema_decay))


def update_rule(
    config: OptimConfig, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """The rule at any learning rate: ``config.schedule`` and what it reads do not count.

    Args:
        config: of the other settings; an average of ``d`` is not taken.
        learning_rate: of the next update, which may be traced; or a schedule.
    """
    rule = _rule(config, learning_rate)
    if config.factors:
        rule = optax.chain(rule, groups.scale(config.factors))
    if config.clip_norm is None:
        return rule
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), rule)


def _rule(
    config: OptimConfig, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    patterns = config.weight_decay_mask
    mask = functools.partial(groups.mask, patterns=patterns) if patterns else None
    if config.optimizer == "sgd":  # optax.sgd has no weight decay
        return optax.chain(
            optax.trace(config.momentum) if config.momentum else optax.identity(),
            optax.add_decayed_weights(config.weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    if config.optimizer == "lion":
        return optax.lion(
            learning_rate, config.b1, config.b2, weight_decay=config.weight_decay, mask=mask
        )
    return optax.adamw(
        learning_rate,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=mask,
    )
