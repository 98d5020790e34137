"""The programs of an engine's slots, and the checks of what they are given."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax import trees
from tera_jax.adapters import bank
from tera_jax.adapters.base import Adapter
from tera_jax.llama import stacking
from tera_jax.llama.decode import slot_admission, slot_layout, slots
from tera_jax.llama.decode.slots import SlotState
from tera_jax.llama.model import Llama
from tera_jax.serve.store.record import Layout

_Result = TypeVar("_Result")


def require_layout(adapter: Adapter, params: Any, layout: Layout) -> None:
    """Check that records hold the ``d`` of an adapter.

    Args:
        adapter: of the records.
        params: the base's, with the layers in a stack, abstract or real.
        layout: of the records.

    Raises:
        ValueError: for an array that is missing, too many or of another shape.
    """
    expected = {k: tuple(v.shape) for k, v in trees.named(adapter.abstract_d(params)).items()}
    if expected != layout.shapes:
        names = {**expected, **layout.shapes}
        name = next(n for n in names if expected.get(n) != layout.shapes.get(n))
        raise ValueError(
            f"{name} is {layout.shapes.get(name, 'missing')} in the store and "
            f"{expected.get(name, 'missing')} for {adapter.name} on this base; make the store again"
        )


def make_base_d(adapter: Adapter, base: Mapping[str, Any]) -> Any:
    """A ``d`` with which the adapted model is the base, on every device of a mesh.

    Args:
        adapter: method and layers.
        base: ``params`` and ``frozen``.
    """
    params = stacking.stacked(base["params"])
    return slot_layout.everywhere(adapter.base_d(params, base["frozen"]))


def make_rows(
    model: Llama,
    adapter: Adapter,
    layout: Layout,
    base: Mapping[str, Any],
    base_d: Any,
    numbers: Sequence[jax.Array],
    is_base_R: jax.Array,
) -> Any:
    """The prepared arrays of R adapters, with an axis R (:func:`tera_jax.adapters.bank.make_rows`).

    Args:
        model: the base's.
        adapter: method and layers.
        layout: of the records.
        base: ``params`` and ``frozen``.
        base_d: of :func:`make_base_d`.
        numbers: R times (N,), those of a record.
        is_base_R: bool, which are the base in place of their numbers.
    """
    params = stacking.stacked(base["params"])
    each_d = [
        _d(adapter, params, layout, base_d, numbers_N, is_base_R[row])
        for row, numbers_N in enumerate(numbers)
    ]
    return slot_layout.everywhere(
        bank.make_rows(adapter, params, base["frozen"], each_d, dtype=model.dtype)
    )


def make_row(
    model: Llama,
    adapter: Adapter,
    layout: Layout,
    base: Mapping[str, Any],
    base_d: Any,
    numbers_N: jax.Array,
    is_base: jax.Array,
) -> Any:
    """:func:`make_rows` of one adapter, without an axis R."""
    params = stacking.stacked(base["params"])
    d = _d(adapter, params, layout, base_d, numbers_N, is_base)
    return slot_layout.everywhere(
        bank.make_row(adapter, params, base["frozen"], d, dtype=model.dtype)
    )


def _d(
    adapter: Adapter,
    params: Any,
    layout: Layout,
    base_d: Any,
    numbers_N: jax.Array,
    is_base: jax.Array,
) -> Any:
    """The collection that a record holds, or the base's."""
    ends = np.cumsum([math.prod(shape) for shape in layout.shapes.values()]).tolist()
    end_of = dict(zip(layout.shapes, ends, strict=True))

    def part(path: Any, leaf: Any, own: jax.Array) -> jax.Array:
        end = end_of[trees.name(path)]
        found = numbers_N[end - leaf.size : end].reshape(leaf.shape).astype(leaf.dtype)
        return jnp.where(is_base, own, found)

    return jax.tree.map_with_path(part, adapter.abstract_d(params), base_d)


def seeded(program: Callable[..., _Result]) -> Callable[..., _Result]:
    """The same program with the halves of seeds in place of the keys of its last argument.

    Args:
        program: takes :class:`.sampling.Settings` last, those of one request or of R.

    Returns:
        A function whose ``settings.key`` is uint32 (2,) or (R, 2): the lower half comes first.
    """

    @functools.wraps(program)
    def run(*given: Any) -> _Result:
        *before, settings = given
        halves = settings.key
        key = jax.vmap(_key)(halves) if halves.ndim == 2 else _key(halves)
        return program(*before, settings._replace(key=key))

    return run


@seeded
def admit(
    model: Llama,
    adapter: Adapter | None,
    layout: Layout | None,
    base: Mapping[str, Any],
    base_d: Any,
    state: SlotState,
    slot_R: jax.Array,
    numbers: Sequence[jax.Array],
    is_base_R: jax.Array,
    *given: Any,
) -> tuple[SlotState, jax.Array, jax.Array]:
    """:func:`.slot_admission.admit` of adapters that come as the numbers of their records."""
    row_R = None
    if adapter is not None and layout is not None:
        row_R = make_rows(model, adapter, layout, base, base_d, numbers, is_base_R)
    return slot_admission.admit(model, adapter, base, state, slot_R, row_R, *given)


@seeded
def insert(*given: Any) -> tuple[SlotState, jax.Array]:
    """:func:`.slots.insert`, whose token is (1,) here."""
    state, token = slots.insert(*given)
    return state, token[None]


def _key(halves_2: jax.Array) -> jax.Array:
    """Of the halves of a seed. With the lower alone it is that of ``jax.random.key``."""
    low, high = halves_2
    key = jax.random.key(low)
    return jnp.where(high == 0, key, jax.random.fold_in(key, high))
