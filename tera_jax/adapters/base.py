"""A method, configured for the layers of one model: its collections, its use, its merge.

The variables of an adapted model are three collections. ``params`` is the base. ``frozen`` holds
shared sets by name under ``shared`` and, for methods that give each layer its own, arrays at the
path of the module. ``d`` holds the trainable arrays at the path of the module. Below the path, the
arrays stand under the name of the method.

Kernels of ``params`` may be quantised (:mod:`tera_jax.quantize`): every method then sees the plain
kernels that they stand for, one layer's at a time.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from tera_jax.methods import Site

Variables = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Adapter(abc.ABC):
    """A method, its configuration and the layers that it adapts. Holds no arrays.

    Made by :func:`tera_jax.adapters.factory.adapt`.
    """

    name: str
    config: Any
    sites: tuple[Site, ...]

    @property
    def mergeable(self) -> bool:
        """Whether :meth:`merge` gives plain weights that do what the adapted model does."""
        return True

    @property
    def regenerates(self) -> bool:
        """Whether ``frozen`` follows from the configuration and the shapes of the base alone."""
        return True

    @property
    def num_virtual_tokens(self) -> int:
        """Tokens to put before a prompt: ids from the vocabulary's size on, in order."""
        return 0

    def init_frozen(self, params: Variables) -> dict[str, Any]:
        """The ``frozen`` collection.

        A pure function: under ``jax.jit`` with ``out_shardings`` the arrays are made in place.

        Args:
            params: the base's ``params`` collection.
        """
        del params
        return {}

    @abc.abstractmethod
    def init_d(
        self, params: Variables, frozen: Variables, seed: int | jax.Array = 0
    ) -> dict[str, Any]:
        """The ``d`` collection, float32, with which the adapted model is the base.

        Exceptions, by their publications: LoRETTA, prompt tuning and P-tuning change it at once.

        Args:
            params: the base's ``params`` collection.
            frozen: from :meth:`init_frozen`.
            seed: of what is drawn at random, if anything; it may be traced.
        """

    @abc.abstractmethod
    def apply(
        self, model: nn.Module, variables: Variables, *args: Any, built: Any = None, **kwargs: Any
    ) -> Any:
        """``model.apply`` of the adapted model.

        Args:
            model: the linen model that the adapter was made for.
            variables: ``params``, ``frozen``, ``d`` and what else the model takes.
            *args: of ``model.apply``, as are the keyword arguments; ``rngs={"dropout": key}``
                turns the dropout of methods that have one on.
            built: kernels from :meth:`build`.
            **kwargs: of ``model.apply``.

        Raises:
            ValueError: when a lifted transform keeps ``d`` or ``frozen`` from a targeted layer.
        """

    def build(self, variables: Variables, tokens: int) -> dict[str, Any]:
        """The adapted kernels that :meth:`apply` would make for so many tokens, made ahead of it.

        ``apply(..., built=...)`` then takes them as they are, as often as it is called. A part of
        ``params``; empty where no layer's kernel is worth making.

        Args:
            variables: the three collections.
            tokens: rows that a layer multiplies in one call.
        """
        del variables, tokens
        return {}

    @abc.abstractmethod
    def merge(self, variables: Variables) -> Any:
        """``params`` that alone do what the adapted model does, summed in float32, rounded once.

        None of them is quantised: all kernels have the type that they were quantised from.

        Raises:
            NotMergeableError: when no weights do.
        """
