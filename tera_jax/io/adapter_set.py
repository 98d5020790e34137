"""Several adapters of one base and one method, one of which is chosen by an argument.

A jitted function that takes the set and an index is traced once, whichever adapter the index
names::

    adapters = load_adapters({"ana": "adapters/ana", "ben": "adapters/ben"}, params)

    @jax.jit
    def logits(adapters, params, index, tokens_BL):
        return adapters.apply(model, params, index, tokens_BL)[0]

    logits(adapters, params, adapters.index("ben"), tokens_BL)

Adapters of another method, configuration or layers make another computation. They go into a set of
their own, which has a trace of its own. For another adapter in each row of a batch there is
:meth:`AdapterSet.bank`.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from tera_jax import trees
from tera_jax.adapters.bank import Bank, make_bank, stack
from tera_jax.adapters.base import Adapter, Variables
from tera_jax.adapters.stack import at_axes
from tera_jax.io.adapter_files import load_adapter


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdapterSet:
    """A adapters, made by :func:`load_adapters`. A pytree.

    Attributes:
        frozen: the arrays that all of them share.
        d: their trainable arrays, (stack..., A, ...) at the path of each layer.
        names: of the adapters, in the order of their indices.
        adapter: method and layers of all of them.
    """

    frozen: dict[str, Any]
    d: dict[str, Any]
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    adapter: Adapter = dataclasses.field(metadata={"static": True})

    def index(self, name: str) -> Int[Array, ""]:
        """The int32 index of an adapter, to be given to a jitted function.

        Raises:
            ValueError: for a name that is not in the set.
        """
        if name not in self.names:
            raise ValueError(f"there is no adapter {name!r}; the set has {', '.join(self.names)}")
        return jnp.asarray(self.names.index(name), jnp.int32)

    def variables(self, params: Variables, index: Int[Array, ""]) -> dict[str, Any]:
        """The collections of one adapter, for ``adapter.apply`` and ``adapter.merge``.

        Args:
            params: the base.
            index: from :meth:`index`; it may be traced.
        """
        d = at_axes(self.adapter.layers, lambda axis, leaf: jnp.take(leaf, index, axis), self.d)
        return {"params": params, "frozen": self.frozen, "d": d}

    def apply(
        self,
        model: nn.Module,
        params: Variables,
        index: Int[Array, ""],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """``model.apply`` with one of the adapters.

        Args:
            model: the linen model of the base.
            params: the base.
            index: from :meth:`index`; it may be traced.
            *args: of ``model.apply``, as are the keyword arguments.
            **kwargs: of ``model.apply``.
        """
        return self.adapter.apply(model, self.variables(params, index), *args, **kwargs)

    def bank(self, params: Variables) -> Bank:
        """The same adapters for batches of mixed rows: entry 0 is the base, 1 the first adapter.

        Raises:
            NotByRowsError: for a method that trains all parameters.
        """
        each = [
            self.variables(params, jnp.asarray(number))["d"] for number in range(len(self.names))
        ]
        return make_bank(self.adapter, params, self.frozen, each)


def load_adapters(
    directories: Mapping[str, str | os.PathLike[str]],
    params: Any,
    allow_other_base: bool = False,
) -> AdapterSet:
    """Read adapters of one base and one method, to switch between them without a new trace.

    Args:
        directories: of :func:`tera_jax.save_adapter` or of PEFT, by the names to be used here.
        params: the base's ``params`` collection.
        allow_other_base: as of :func:`tera_jax.load_adapter`.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: as :func:`tera_jax.load_adapter`; for no adapter; when two differ in method,
            configuration, layers or frozen arrays, or one brings weights of the base.
    """
    if not directories:
        raise ValueError("there are no adapters; give the directory of at least one by its name")
    loaded: dict[str, Any] = {}
    first: tuple[str, Adapter, Any] | None = None
    for name, directory in directories.items():
        adapter, variables = load_adapter(directory, params, allow_other_base)
        if not trees.same_arrays(variables["params"], params):
            raise ValueError(
                f"{name!r} brings weights of the base (modules_to_save), so that it shares no base "
                "with others; load it alone"
            )
        first = first or (name, adapter, variables["frozen"])
        difference = _difference(adapter, first[1])
        if difference is None and not _equal(variables["frozen"], first[2]):
            difference = "of other frozen arrays than"
        if difference is not None:
            raise ValueError(
                f"{name!r} is {difference} {first[0]!r}; adapters of one set share method, "
                "configuration, layers and frozen arrays: load it into a set of its own, which has "
                "its own trace"
            )
        loaded[name] = variables["d"]
    assert first is not None
    return AdapterSet(first[2], stack(first[1], [*loaded.values()]), tuple(loaded), first[1])


def _equal(a: Any, b: Any) -> bool:
    """Whether the leaves of two trees are equal."""
    x, y = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(x) == len(y) and all(map(jnp.array_equal, x, y))


def _difference(other: Adapter, adapter: Adapter) -> str | None:
    """What tells two adapters apart but for their arrays, for an error; None where nothing does."""
    if other.name != adapter.name:
        return f"of method {other.name!r}, not {adapter.name!r} as"
    if other.method != adapter.method:
        fields = [
            f"{name} {value!r}, not {getattr(adapter.method, name)!r}"
            for name, value in dataclasses.asdict(other.method).items()
            if value != getattr(adapter.method, name)
        ]
        return f"of {', '.join(fields)} as"
    return None if other.layers == adapter.layers else "of other layers than"
