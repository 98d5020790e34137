"""The table of fine-tuning methods."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from tera_jax.methods import (
    dora,
    full,
    hira,
    lora,
    loretta,
    mora,
    pissa,
    prompt,
    quanta,
    tera,
    tera_config,
    toplora,
    vera,
)
from tera_jax.methods.base import Method, NotMergeableError, Site

__all__ = ["METHODS", "Entry", "Method", "NotMergeableError", "Site", "entry"]


class Entry(NamedTuple):
    """A row of the table.

    Attributes:
        config: the method's configuration class.
        method: (config, sites) -> the configured method.
        adapts: linear ``kernels``, the token ``embedding``, or ``all`` parameters.
    """

    config: type
    method: Callable[[Any, tuple[Site, ...]], Any]
    adapts: Literal["kernels", "embedding", "all"] = "kernels"


METHODS: dict[str, Entry] = {
    "full": Entry(full.FullConfig, full.method, "all"),
    "prompt": Entry(prompt.PromptConfig, prompt.method, "embedding"),
    "p_tuning": Entry(prompt.PTuningConfig, prompt.method, "embedding"),
    "tera": Entry(tera_config.TeraConfig, tera.method),
    "tera_iden": Entry(tera_config.TeraIdenConfig, tera.method),
    "tera_unique": Entry(tera_config.TeraUniqueConfig, tera.method),
    "lora": Entry(lora.LoraConfig, lora.method),
    "pissa": Entry(pissa.PissaConfig, pissa.method),
    "dora": Entry(dora.DoraConfig, dora.method),
    "toplora": Entry(toplora.TopLoraConfig, toplora.method),
    "vera": Entry(vera.VeraConfig, vera.method),
    "hira": Entry(hira.HiraConfig, hira.method),
    "mora": Entry(mora.MoraConfig, mora.method),
    "quanta": Entry(quanta.QuantaConfig, quanta.method),
    "loretta": Entry(loretta.LorettaConfig, loretta.method),
}


def entry(name: str) -> Entry:
    """The row of a method.

    Raises:
        ValueError: for an unknown method.
    """
    if name not in METHODS:
        raise ValueError(f"method {name!r}; choose one of {sorted(METHODS)}")
    return METHODS[name]
