"""A method, configured for the layers of one model: its collections, its use, its merge.

The variables of an adapted model are three collections. ``params`` is the base. ``frozen`` holds
shared sets by name under ``shared`` and, for methods that give each layer its own, arrays at the
path of the module. ``d`` holds the trainable arrays at the path of the module, and those that all
layers read under ``shared``. Below the path, arrays stand under the name of the method.

Kernels of ``params`` may be quantised (:mod:`tera_jax.quantize`): every method then sees the plain
kernels that they stand for, one layer's at a time. In ``fp8`` its product with the kernel itself is
one of e4m3 codes (:mod:`tera_jax.ops.fp8_matmul`).
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from tera_jax.adapters.stack import at_axes, take_entries
from tera_jax.adapters.targets import ModelLayers
from tera_jax.methods.base import Method, NotByRowsError, TargetLayer

Variables = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Adapter(abc.ABC):
    """A method and the layers that it adapts. Holds no arrays.

    Made by :func:`tera_jax.adapt`.

    Attributes:
        name: of the method, that of its row in :data:`tera_jax.methods.TABLE`.
        method: with its configuration in its fields.
        layers: those that it adapts.
    """

    name: str
    method: Method
    layers: tuple[TargetLayer, ...]

    parameter: ClassVar[str] = "kernel"
    """The name of the parameter that it adapts in a layer."""
    trains_all: ClassVar[bool] = False
    """Whether ``d`` is a copy of ``params``, as large and laid out alike."""

    @classmethod
    @abc.abstractmethod
    def select(
        cls, name: str, found: ModelLayers, targets: Sequence[str]
    ) -> tuple[TargetLayer, ...]:
        """The layers of a model that the method of that name is to adapt.

        Raises:
            ValueError: when there are none.
        """

    @property
    def mergeable(self) -> bool:
        """Whether :meth:`merge` gives plain weights that do what the adapted model does."""
        return self.method.mergeable

    @property
    def regenerates(self) -> bool:
        """Whether ``frozen`` follows from the configuration and the shapes of the base alone."""
        return self.method.regenerates

    @property
    def num_virtual_tokens(self) -> int:
        """Tokens to put before a prompt: ids from the vocabulary's size on, in order."""
        return 0

    def virtual_tokens(self, vocab_size: int) -> tuple[int, ...]:
        """Their ids, where the base's vocabulary has that size."""
        return tuple(range(vocab_size, vocab_size + self.num_virtual_tokens))

    def adapts(self, module: str) -> bool:
        """Whether a module at the top of the model, such as ``lm_head``, is changed in itself."""
        return any(layer.path[0] == module for layer in self.layers)

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

        Exceptions, by their publications: LoRETTA, Uni-LoRA, UniRes, VB-LoRA, FourierFT, prompt
        tuning and P-tuning change it at once.

        Args:
            params: the base's ``params`` collection.
            frozen: from :meth:`init_frozen`.
            seed: of what is drawn at random, if anything; it may be traced.
        """

    def abstract_d(self, params: Variables) -> dict[str, Any]:
        """The shapes and types of ``d`` on a base, of which nothing is computed or drawn.

        Args:
            params: the base's ``params`` collection.
        """
        return jax.eval_shape(self.init_d, params, jax.eval_shape(self.init_frozen, params))

    def apply(
        self,
        model: nn.Module,
        variables: Variables,
        *args: Any,
        materialized: Any = None,
        rows: Any = None,
        **kwargs: Any,
    ) -> Any:
        """``model.apply`` of the adapted model.

        With ``rows`` every row of the batch uses another adapter: ``d`` is that of several
        (:func:`tera_jax.adapters.bank.stack`). Decoding prepares them ahead, and calls
        :meth:`apply_rows`.

        Args:
            model: the linen model that the adapter was made for.
            variables: ``params``, ``frozen``, ``d`` and what else the model takes.
            *args: of ``model.apply``, as are the keyword arguments; ``rngs={"dropout": key}``
                turns the dropout of methods that have one on.
            materialized: kernels from :meth:`materialize`.
            rows: (B,) int32, the adapter of each row.
            **kwargs: of ``model.apply``.

        Raises:
            ValueError: when a collection is missing, or a lifted transform keeps ``d`` or
                ``frozen`` from a targeted layer.
        """
        require_collections(variables)
        if rows is None:
            return self._apply(model, variables, materialized or {}, *args, **kwargs)
        prepared = at_axes(
            self.layers, take_entries(jnp.asarray(rows)), self.prepare_rows(variables)
        )
        return self.apply_rows(model, {**variables, "d": prepared}, *args, **kwargs)

    def base_d(self, params: Variables, frozen: Variables) -> dict[str, Any]:
        """A ``d`` with which the adapted model is the base exactly.

        Raises:
            NotByRowsError: for a method that trains all parameters.
        """
        del params, frozen
        raise self._not_by_rows()

    def prepare_rows(self, variables: Variables) -> dict[str, Any]:
        """What :meth:`apply_rows` reads of several adapters, in the layout of their ``d``.

        Args:
            variables: ``params``, ``frozen``, and a ``d`` of several adapters
                (:func:`tera_jax.adapters.bank.stack`).

        Returns:
            (stack..., A, ...) at each layer, differentiable in ``d``; nothing is shared.

        Raises:
            NotByRowsError: for a method that trains all parameters.
        """
        del variables
        raise self._not_by_rows()

    def apply_rows(self, model: nn.Module, variables: Variables, *args: Any, **kwargs: Any) -> Any:
        """``model.apply`` with another adapter in every row of the batch.

        Args:
            model: the linen model that the adapter was made for.
            variables: as of :meth:`apply`, but that ``d`` holds each row's own prepared arrays,
                (stack..., B, ...) at each layer (:meth:`tera_jax.adapters.bank.Bank.gather`).
            *args: of ``model.apply``, as are the keyword arguments. Their rows lead.
            **kwargs: of ``model.apply``.

        Raises:
            NotByRowsError: for a method that trains all parameters, or a target layer that brings
                its own matmul.
            ValueError: when a collection is missing, or has another number of rows.
        """
        require_collections(variables)
        return self._apply_rows(model, variables, *args, **kwargs)

    def _apply_rows(self, model: nn.Module, variables: Variables, *args: Any, **kwargs: Any) -> Any:
        """:meth:`apply_rows` with complete variables."""
        del model, variables, args, kwargs
        raise self._not_by_rows()

    def _not_by_rows(self) -> NotByRowsError:
        return NotByRowsError(
            f"{self.name} trains a copy of every parameter, so that each row would have a base of "
            "its own; serve each such model by itself, or choose another method"
        )

    @abc.abstractmethod
    def _apply(
        self, model: nn.Module, variables: Variables, made: Variables, *args: Any, **kwargs: Any
    ) -> Any:
        """:meth:`apply` with complete variables."""

    def materialize(self, variables: Variables, tokens: int) -> dict[str, Any]:
        """The adapted kernels that :meth:`apply` would make for so many tokens, made ahead of it.

        ``apply(..., materialized=...)`` then takes them as they are, as often as it is called. A
        part of ``params``; empty where no layer's kernel is worth making.

        Args:
            variables: the three collections.
            tokens: rows that a layer multiplies in one call.
        """
        del variables, tokens
        return {}

    def merge(self, variables: Variables) -> Any:
        """``params`` that alone do what the adapted model does, summed in float32, rounded once.

        None of them is quantised: all kernels have the type that they were quantised from.

        Raises:
            NotMergeableError: when no weights do.
            ValueError: when a collection is missing.
        """
        require_collections(variables)
        return self._merge(variables)

    @abc.abstractmethod
    def _merge(self, variables: Variables) -> Any:
        """:meth:`merge` of complete variables."""


def require_collections(variables: Variables) -> None:
    """Raise ``ValueError`` unless ``params``, ``frozen`` and ``d`` are there."""
    missing = [name for name in ("params", "frozen", "d") if name not in variables]
    if missing:
        raise ValueError(
            f"the variables {sorted(variables)} lack {', '.join(missing)}; pass "
            '{"params": params, "frozen": adapter.init_frozen(params), "d": d}'
        )
