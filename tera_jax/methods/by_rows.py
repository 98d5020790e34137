"""A linear method with another adapter in every row of a batch."""

import abc
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tera_jax.methods.product import PLAIN, Product, drop
from tera_jax.methods.target_layer import TargetLayer

KeyArray: TypeAlias = Key[Array, ""]
Kernel: TypeAlias = Float[Array, "I O"]
Inputs: TypeAlias = Float[Array, "*B I"]
Outputs: TypeAlias = Float[Array, "*B O"]


class ByRows(abc.ABC):
    """The part of :class:`tera_jax.methods.base.LinearMethod` that mixed batches need.

    One adapter's d becomes a *row*, by :meth:`prepare_row`: d itself, or arrays that are made of it
    once. ``row_B`` is such a tree whose arrays lead with the rows of a batch.
    """

    prepare_reads_kernel: ClassVar[bool] = False
    """Whether :meth:`prepare_row` reads W; else it gets the shape and type of it alone."""

    casts_input: ClassVar[bool] = True
    """Whether x W of an adapted layer may be of e4m3 codes alone, where the base has such.

    Not where the method has routes that make W + ΔW in the type of x: they and mixed rows then
    multiply by the same W.
    """

    @abc.abstractmethod
    def init_d(self, key: KeyArray, kernel: Kernel, frozen: Any, layer: TargetLayer) -> Any:
        """See :class:`tera_jax.methods.base.LinearMethod`."""

    @abc.abstractmethod
    def branch(self, frozen: Any, d: Any, kernel: Kernel, x: Inputs, layer: TargetLayer) -> Outputs:
        """See :class:`tera_jax.methods.base.LinearMethod`."""

    def base_d(self, kernel: Any, frozen: Any, layer: TargetLayer) -> Any:
        """Arrays in the place of :meth:`init_d`'s with which ΔW is exactly zero; by default zeros.

        With :meth:`init_shared_d` its arrays are zero too.
        """
        key = jax.eval_shape(lambda: jax.random.key(0))
        shapes = jax.eval_shape(functools.partial(self.init_d, layer=layer), key, kernel, frozen)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def prepare_row(self, frozen: Any, d: Any, kernel: Any, layer: TargetLayer) -> Any:
        """What :meth:`apply_rows` reads of one adapter: d, or what is computed of it once.

        Differentiable in d. No array is as large as the kernel.
        """
        del frozen, kernel, layer
        return d

    @property
    def prepares(self) -> bool:
        """Whether :meth:`prepare_row` is the method's own."""
        return type(self).prepare_row is not ByRows.prepare_row

    def branch_row(
        self, frozen: Any, row: Any, kernel: Kernel, x: Inputs, layer: TargetLayer
    ) -> Outputs:
        """:meth:`branch` of what :meth:`prepare_row` gave, for the x of one row of a batch."""
        return self.branch(frozen, row, kernel, x, layer)

    def branch_rows(
        self, frozen: Any, row_B: Any, kernel: Kernel, x: Inputs, layer: TargetLayer
    ) -> Outputs:
        """:meth:`branch_row` of every row: x and the arrays of ``row_B`` lead with the rows."""
        each = functools.partial(self.branch_row, frozen, kernel=kernel, layer=layer)
        return jax.vmap(lambda row, x: each(row, x=x))(row_B, x)

    def branches(
        self, frozen: Any, rows: Sequence[Any], x: Inputs, layers: Sequence[TargetLayer]
    ) -> list[Any] | None:
        """:meth:`branch_rows` of several layers that read the same x and share ``frozen``.

        None, as by default, where that is not faster than one layer after the other.
        """
        del frozen, rows, x, layers
        return None

    def apply_rows(
        self,
        frozen: Any,
        row_B: Any,
        kernel: Kernel,
        x: Inputs,
        layer: TargetLayer,
        how: Product = PLAIN,
    ) -> Outputs:
        """:meth:`apply` with another adapter in every row of a batch.

        W is multiplied by once, with all rows.

        Args:
            frozen: arrays of the layer, or those that it shares, the same for all rows.
            row_B: what :meth:`prepare_row` gave for each row's adapter; B leads every array.
            kernel: W.
            x: (B, ..., I).
            layer: which it is.
            how: it multiplies.
        """
        dropped = drop(how.dropout, getattr(self, "dropout", 0.0), x)
        return how.matmul(x, kernel) + self.branch_rows(frozen, row_B, kernel, dropped, layer)
