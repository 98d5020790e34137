"""A bank: several adapters of one base and one method, of which each row of a batch uses one.

Entry 0 is the base itself. The other entries are ordinary ``d`` collections::

    bank = make_bank(adapter, params, frozen, [d_1, d_2])
    index_B = bank.index([0, 2, 1, 2])
    rows = bank.gather(index_B)          # each row's own arrays
    adapter.apply_rows(model, {"params": params, "frozen": frozen, "d": rows}, tokens_BL)

``rows`` is laid out like ``d``: at the path of a layer, the axes of its stack in front, then the
axis of the rows. What is there is not d but what the method reads of it in every step
(:meth:`tera_jax.adapters.base.Adapter.prepare_rows`): it is made once, when an adapter comes in.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from tera_jax.adapters.base import Adapter, Variables
from tera_jax.adapters.stack import at_axes, take_entries
from tera_jax.trees import named

_MOST_NAMED = 3
"""Arrays that an error names."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bank:
    """The prepared arrays of A adapters. A pytree, made by :func:`make_bank`.

    Attributes:
        rows: (stack..., A, ...) at the path of each layer.
        size: A, the base being the first.
        adapter: method and layers of all of them.
    """

    rows: dict[str, Any]
    size: int = dataclasses.field(metadata={"static": True})
    adapter: Adapter = dataclasses.field(metadata={"static": True})

    def index(self, entries: Sequence[int] | np.ndarray) -> Int[Array, " B"]:
        """The entries of a batch's rows, checked on the host.

        Raises:
            ValueError: for an entry that is no integer or not in the bank.
        """
        found = np.asarray(entries)
        if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
            raise ValueError(f"entries {entries!r}; give one integer for each row of the batch")
        wrong = sorted({int(entry) for entry in found if not 0 <= entry < self.size})
        if wrong:
            raise ValueError(
                f"entries {wrong} are not in the bank of {self.size}; the adapters are 1 to "
                f"{self.size - 1}, and 0 is the base"
            )
        return jnp.asarray(found, jnp.int32)

    def gather(self, index_B: Int[Array, " B"]) -> dict[str, Any]:
        """Each row's own arrays (stack..., B, ...), for :meth:`Adapter.apply_rows`.

        Args:
            index_B: int32 entries, from :meth:`index`. They may be traced.
        """
        return at_axes(self.adapter.layers, take_entries(index_B), self.rows)

    def row(self, entry: int) -> dict[str, Any]:
        """One adapter's arrays (stack..., ...), without an axis for the adapters.

        Raises:
            ValueError: as :meth:`index`.
        """
        self.index([entry])
        return at_axes(self.adapter.layers, lambda at, leaf: leaf.take(entry, at), self.rows)

    @property
    def bytes_an_entry(self) -> int:
        """Of one adapter."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.rows)) // self.size


def make_bank(
    adapter: Adapter,
    params: Variables,
    frozen: Variables,
    adapters_d: Sequence[Variables],
    dtype: jax.typing.DTypeLike | None = None,
) -> Bank:
    """The bank of some adapters, and of the base before them.

    Args:
        adapter: that all of them belong to: one method, one configuration, the same layers.
        params: the base.
        frozen: the arrays that they share.
        adapters_d: the ``d`` collection of each.
        dtype: in which floating arrays are kept; None leaves them as they are.

    Raises:
        NotByRowsError: for a method that trains all parameters.
        ValueError: for a ``d`` that is not of the adapter, by the name of an array.
    """
    base = adapter.base_d(params, frozen)
    for number, d in enumerate(adapters_d, 1):
        _require_alike(d, base, number)
    rows = make_rows(adapter, params, frozen, [base, *adapters_d], dtype)
    return Bank(rows, len(adapters_d) + 1, adapter)


def make_rows(
    adapter: Adapter,
    params: Variables,
    frozen: Variables,
    adapters_d: Sequence[Variables],
    dtype: jax.typing.DTypeLike | None = None,
) -> dict[str, Any]:
    """The arrays of A adapters, (stack..., A, ...) at each layer. A pure function, to be jitted.

    Args:
        adapter: method and layers.
        params: the base.
        frozen: the arrays that adapters share.
        adapters_d: the ``d`` collection of each.
        dtype: as of :func:`make_bank`.

    Raises:
        NotByRowsError: for a method that trains all parameters.
    """
    d = stack(adapter, adapters_d)
    return _cast(adapter.prepare_rows({"params": params, "frozen": frozen, "d": d}), dtype)


def make_row(
    adapter: Adapter,
    params: Variables,
    frozen: Variables,
    d: Variables,
    dtype: jax.typing.DTypeLike | None = None,
) -> dict[str, Any]:
    """One adapter's arrays, as :meth:`Bank.row` has them: :func:`make_rows` without the axis A."""
    rows_1 = make_rows(adapter, params, frozen, [d], dtype)
    return at_axes(adapter.layers, lambda at, leaf: leaf.take(0, at), rows_1)


def stack(adapter: Adapter, adapters_d: Sequence[Variables]) -> dict[str, Any]:
    """Several ``d`` as one: (stack..., A, ...) at a layer, (A, ...) for what all layers read."""
    return at_axes(adapter.layers, lambda axis, *leaf: jnp.stack(leaf, axis), *adapters_d)


def _require_alike(d: Variables, base: Variables, number: int) -> None:
    """Raise ``ValueError`` unless a ``d`` has the arrays of the base's."""
    found, expected = ({k: v.shape for k, v in named(dict(tree)).items()} for tree in (d, base))
    if found == expected:
        return
    names = [n for n in {**expected, **found} if found.get(n) != expected.get(n)]
    several = ", ".join(
        f"{n} is {found.get(n, 'missing')} in place of {expected.get(n, 'nothing')}"
        for n in names[:_MOST_NAMED]
    )
    raise ValueError(
        f"adapter {number} is not of this method, configuration and layers: {several}; all "
        "adapters of a bank share them"
    )


def _cast(rows: dict[str, Any], dtype: jax.typing.DTypeLike | None) -> dict[str, Any]:
    """With floating arrays in a type; as they are with None."""

    def cast(leaf: Array) -> Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return rows if dtype is None else jax.tree.map(cast, rows)
