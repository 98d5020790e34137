"""Options that only a run of one adapter has, ``train.main``'s."""

from typing import Any

from .schema import Config

_ALONE = {
    "config.model.adapter": (None, "each adapter starts from its method's first d"),
    "config.optim.ema_decay": (None, "no average of d is taken"),
    "config.loop.patience": (None, "each adapter is trained to its last step"),
    "config.loop.loggers": (("jsonl", "tensorboard"), "the log is a file of its own"),
    "config.data.streaming": (False, "the records of all runs are kept in memory"),
}
"""Key -> its default, and what is done in place of it."""


def require_defaults(config: Config, command: str) -> None:
    """Raise ``ValueError`` for an option that ``command``, such as ``train.many``, has not."""
    for key, (default, instead) in _ALONE.items():
        _, section, field = key.split(".")
        value: Any = getattr(getattr(config, section), field)
        if value != default:
            raise ValueError(
                f"{key} is {value!r}, but {command} does not have it: {instead}; leave it out, or "
                "use train.main"
            )
