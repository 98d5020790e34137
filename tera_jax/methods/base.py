"""What a fine-tuning method is to the rest of the library.

A method is a frozen dataclass: its fields are its configuration, its functions are pure and act on
one layer, mapped over a stack by the caller. CONTRIBUTING.md has the steps to add one.
"""

import abc
import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from tera_jax.methods.by_rows import ByRows
from tera_jax.methods.limits import check_number
from tera_jax.methods.product import PLAIN, Product, drop
from tera_jax.methods.target_layer import TargetLayer
from tera_jax.ops.numerics import add_update

KeyArray: TypeAlias = Key[Array, ""]
Arrays: TypeAlias = dict[str, Array]
Kernel: TypeAlias = Float[Array, "I O"]
Inputs: TypeAlias = Float[Array, "*B I"]
Outputs: TypeAlias = Float[Array, "*B O"]


class NotMergeableError(ValueError):
    """The method changes the model by something that no weight holds; the message says what."""


class NotByRowsError(ValueError):
    """The method cannot have another adapter in each row; the message says what to do."""


class FrozenOfAll(NamedTuple):
    """Frozen arrays that were drawn for all layers together.

    Attributes:
        own: by the name of a layer those of its own, the axes of its stack in front.
        shared: those that all layers read, under names that no layer's own have.
    """

    own: dict[str, dict[str, Array]]
    shared: dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):  # noqa: B024 - each kind below has abstract functions of its own
    """A method and its configuration. Holds no arrays.

    A ``Literal`` field takes one of its choices only; other limits are checked by
    ``__post_init__`` of the subclass, which calls this one's.
    """

    default_targets: ClassVar[tuple[str, ...]] = ()
    """The patterns of layers that it adapts unless told otherwise."""
    mergeable: ClassVar[bool] = True
    """Whether plain weights can do what the adapted model does."""
    regenerates: ClassVar[bool] = True
    """Whether the frozen arrays follow from seed and shapes alone, so that none need be saved."""

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            choices = typing.get_args(hint)
            if typing.get_origin(hint) is Literal and getattr(self, name) not in choices:
                raise ValueError(f"{name} {getattr(self, name)!r}; choose one of {choices}")
        for field in dataclasses.fields(self):
            check_number(field.name, getattr(self, field.name))

    @property
    def frozen_seed(self) -> int:
        """The seed of the frozen arrays: the field ``seed`` where the method has one."""
        return getattr(self, "seed", 0)

    def check(self, layers: Sequence[TargetLayer]) -> None:
        """Raise ``ValueError``, with the remedy, when the configuration does not fit the layers."""
        del layers


@dataclasses.dataclass(frozen=True)
class LinearMethod(Method, ByRows):
    """A method that adds a ΔW to the kernel of linear layers.

    A subclass gives :meth:`init_d`, :meth:`delta` and :meth:`branch`; few need more.

    ``kernel`` is W (I, O), ``frozen`` and ``d`` are pytrees of one layer's arrays. Where the method
    has :meth:`init_shared_d`, ``d`` is a dictionary that holds those arrays and the layer's own,
    under different names.
    """

    default_targets: ClassVar[tuple[str, ...]] = ("q_proj", "v_proj")

    def frozen_set(self, layer: TargetLayer) -> str | None:
        """The name of the frozen arrays that the layer shares; None when each has its own."""
        del layer
        return None

    def init_frozen(self, key: KeyArray, kernel: Any, layer: TargetLayer) -> Any:
        """The frozen arrays. The kernel of a shared set is abstract: a shape."""
        del key, kernel, layer
        return {}

    def init_frozen_all(self, layers: Sequence[TargetLayer]) -> FrozenOfAll | None:
        """The frozen arrays where they are drawn for all layers together, and not layer by layer.

        They follow from the configuration and the layers alone. Not None, it stands in the place of
        :meth:`init_frozen`, and :meth:`frozen_set` is None.
        """
        del layers
        return None

    @property
    def draws_together(self) -> bool:
        """Whether :meth:`init_frozen_all` is the method's own; its init_d then reads no frozen."""
        return type(self).init_frozen_all is not LinearMethod.init_frozen_all

    def init_shared_d(self, key: KeyArray, layers: Sequence[TargetLayer]) -> Arrays:
        """Trainable arrays, float32, that all layers read; by default there are none."""
        del key, layers
        return {}

    @abc.abstractmethod
    def init_d(self, key: KeyArray, kernel: Kernel, frozen: Any, layer: TargetLayer) -> Any:
        """The trainable arrays, float32."""

    @abc.abstractmethod
    def delta(self, frozen: Any, d: Any, kernel: Kernel, layer: TargetLayer) -> Kernel:
        """ΔW, in float32 or a wider type.

        Raises:
            NotMergeableError: where no matrix does what the method does.
        """

    @abc.abstractmethod
    def branch(self, frozen: Any, d: Any, kernel: Kernel, x: Inputs, layer: TargetLayer) -> Outputs:
        """The product x ΔW by the cheapest exact route, in the type of x."""

    def merge(self, frozen: Any, d: Any, kernel: Kernel, layer: TargetLayer) -> Kernel:
        """The adapted kernel, summed in float32 and rounded once.

        Raises:
            NotMergeableError: where no kernel does what the method does.
        """
        return add_update(kernel, self.delta(frozen, d, kernel, layer))

    def merge_bias(
        self, frozen: Any, d: Any, bias_O: Float[Array, " O"], layer: TargetLayer
    ) -> Float[Array, " O"]:
        """The adapted bias, in its own type, of a layer that has one; by default the bias."""
        del frozen, d, layer
        return bias_O

    @property
    def changes_bias(self) -> bool:
        """Whether :meth:`merge_bias` is the method's own."""
        return type(self).merge_bias is not LinearMethod.merge_bias

    def apply(
        self,
        frozen: Any,
        d: Any,
        kernel: Kernel,
        x: Inputs,
        layer: TargetLayer,
        how: Product = PLAIN,
    ) -> Outputs:
        """What the adapted layer makes of x before its bias, in the type of x.

        Without dropout it is ``x @ merge(frozen, d, kernel)``.

        Args:
            frozen: arrays of the layer, or those that it shares.
            d: arrays of the layer.
            kernel: W.
            x: the input of the layer.
            layer: which it is.
            how: it multiplies.
        """
        dropped = drop(how.dropout, getattr(self, "dropout", 0.0), x)
        return how.matmul(x, kernel) + self.branch(frozen, d, kernel, dropped, layer)

    def max_rank(self, layer: TargetLayer) -> int:
        """The largest rank that ΔW can have, for one token where it depends on the token."""
        return min(layer.kernel_shape)

    def transform_sizes(self, layer: TargetLayer) -> dict[int, tuple[int, ...]]:
        """Kronecker factors of its transforms that the frozen arrays do not tell, by size."""
        del layer
        return {}

    def materializes(self, layer: TargetLayer, tokens: int) -> bool:
        """Whether :meth:`apply` makes the adapted kernel for so many tokens."""
        del layer, tokens
        return False

    def materialize(
        self, frozen: Any, d: Any, kernel: Kernel, layer: TargetLayer, dtype: DTypeLike
    ) -> Kernel:
        """That kernel: :meth:`merge` with matmuls in ``dtype``."""
        del dtype
        return self.merge(frozen, d, kernel, layer)


@dataclasses.dataclass(frozen=True)
class PromptMethod(Method):
    """A method that puts trained embeddings of virtual tokens before the prompt.

    Attributes:
        num_virtual_tokens: P.
    """

    mergeable: ClassVar[bool] = False

    num_virtual_tokens: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_virtual_tokens < 1:
            raise ValueError(f"num_virtual_tokens {self.num_virtual_tokens}; it must be at least 1")

    @abc.abstractmethod
    def init_d(self, key: KeyArray, embedding_VD: Float[Array, "V D"]) -> Any:
        """The trainable arrays, float32."""

    @abc.abstractmethod
    def prompt(self, d: Any) -> Float[Array, "P D"]:
        """The embeddings of the virtual tokens, float32."""


@dataclasses.dataclass(frozen=True)
class NormMethod(Method):
    """A method that changes the scale of norms."""

    default_targets: ClassVar[tuple[str, ...]] = ("*norm",)

    @abc.abstractmethod
    def init_d(self, key: KeyArray, scale_D: Float[Array, " D"], layer: TargetLayer) -> Any:
        """The trainable arrays, float32."""

    @abc.abstractmethod
    def merge(self, d: Any, scale_D: Float[Array, " D"], layer: TargetLayer) -> Float[Array, " D"]:
        """The adapted scale, in the type of the scale."""


@dataclasses.dataclass(frozen=True)
class FullMethod(Method):
    """A method that trains a copy of every parameter."""


def bind(method: Method, layers: Sequence[TargetLayer]) -> tuple[TargetLayer, ...]:
    """The layers, each with what it has to know of the others.

    Raises:
        ValueError: when the method does not fit them.
    """
    method.check(layers)
    if not isinstance(method, LinearMethod) or not layers:
        return tuple(layers)
    largest = tuple(max(sizes) for sizes in zip(*(x.kernel_shape for x in layers), strict=True))
    layers = [dataclasses.replace(layer, largest=largest) for layer in layers]
    groups = [(layer.path[:-1], method.frozen_set(layer)) for layer in layers]
    return tuple(
        dataclasses.replace(layer, num_sharing=1 if group[1] is None else groups.count(group))
        for layer, group in zip(layers, groups, strict=True)
    )


def check_rank(rank: int, layers: Sequence[TargetLayer]) -> None:
    """Raise ``ValueError`` when the rank is above that of a kernel."""
    for layer in layers:
        limit = min(layer.kernel_shape)
        if rank > limit:
            raise ValueError(
                f"rank {rank}, but the kernel {layer.kernel_shape} of layer {layer.name!r} has "
                f"rank {limit} at most; choose a rank up to {limit}, or other targets"
            )
