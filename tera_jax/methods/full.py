"""Full fine-tuning: every parameter is trained, as a float32 copy."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tera_jax.methods.base import Site


@dataclasses.dataclass(frozen=True)
class FullConfig:
    """Nothing to configure."""


def method(config: FullConfig, sites: tuple[Site, ...]) -> None:
    """Full fine-tuning acts on all parameters at once, so it has no function of one layer."""
    del config, sites


def init_d(params: Any) -> Any:
    """A float32 copy of every parameter."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)


def merge(d: Any, params: Any) -> Any:
    """The trained parameters in the types of the base, rounded once."""
    return jax.tree.map(lambda new, old: new.astype(old.dtype), d, params)
