"""Each method with the rank of the paper's tables, for recipes."""

import ml_collections

from .schema import default

_RANKS = {
    "lora": 32,
    "dora": 32,
    "pissa": 16,
    "toplora": 16,
    "hira": 32,
    "mora": 32,
    "vera": 256,
    "loretta": 32,
}
_KAIMING = ("tera", "tera_unique")
"""Published with Kaiming's draws, which are not this library's default."""
# Published learning rates; the others take the highest that the TeRA paper tries.
_LEARNING_RATES = {"lora": 3e-4, "quanta": 5e-5, "toplora": 1e-4}


def published(method: str) -> ml_collections.ConfigDict:
    """A method as published, on AdamW with batches of 32, 100 warm-up steps and linear decay."""
    config = default(method)
    config.data.validation_rows = 120
    config.optim.learning_rate = _LEARNING_RATES.get(method, 1e-3)
    if method in _KAIMING:
        config.method.init = "normal"
    if method in _RANKS:
        config.method.rank = _RANKS[method]
    return config
