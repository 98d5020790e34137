"""The table of fine-tuning methods."""

from collections.abc import Callable
from typing import Any, NamedTuple

from tera_jax.methods import tera
from tera_jax.methods.protocol import Method, Site

__all__ = ["METHODS", "Entry", "Method", "Site"]


class Entry(NamedTuple):
    """A row of the table: the method's configuration class, and the method that it configures."""

    config: type
    method: Callable[[Any], Method]


METHODS: dict[str, Entry] = {
    "tera": Entry(tera.TeraConfig, tera.method),
}
