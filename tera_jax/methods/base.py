"""What a fine-tuning method is to the rest of the library."""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, Literal, NamedTuple


@dataclasses.dataclass(frozen=True)
class Site:
    """One linear layer that a method adapts.

    Attributes:
        path: of the module in the model, such as ``("layers", "self_attn", "q_proj")``.
        kernel_shape: (in, out) of one layer's kernel.
        stack: the leading axes that ``nn.scan`` gave the kernel, such as ``(32,)``.
    """

    path: tuple[str, ...]
    kernel_shape: tuple[int, int]
    stack: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The path with slashes."""
        return "/".join(self.path)


def _never(*args: Any) -> Any:
    raise NotImplementedError("this method's apply makes no kernel")


class Method(NamedTuple):
    """A method is its merge; the other functions make its arguments or a cheaper route to it.

    Those that take arrays are pure functions of one layer, of pytrees: the caller maps them over a
    stack of layers.
    """

    seed: int
    """Of the frozen arrays."""
    regenerates: bool
    """Whether the frozen arrays follow from seed and shapes alone, so that none need be saved."""
    frozen_set: Callable[[Site], str | None]
    """The name of the frozen arrays that the site shares; None when each layer has its own."""
    init_frozen: Callable[..., Any]
    """(key, kernel) -> frozen arrays. The kernel of a shared set is abstract: a shape."""
    init_d: Callable[..., Any]
    """(key, kernel, frozen) -> trainable arrays, float32."""
    merge: Callable[..., Any]
    """(frozen, d, kernel) -> the adapted kernel, summed in float32 and rounded once.

    Raises :class:`NotMergeableError` where no kernel does what the method does."""
    apply: Callable[..., Any]
    """(frozen, d, kernel, x_...I, dropout) -> y_...O, which without dropout is x @ merge(frozen, d,
    kernel) by the cheapest exact route, the merged kernel cast to the type of x. ``dropout`` is a
    key, or None to leave all of x."""
    max_rank: Callable[[Site], int]
    """The largest rank that the change of the site's kernel can have, for one token where the
    change depends on it."""
    builds: Callable[[tuple[int, int], int], bool] = lambda kernel_shape, tokens: False
    """(kernel shape, tokens) -> whether ``apply`` makes the adapted kernel for so many tokens."""
    build: Callable[..., Any] = _never
    """(frozen, d, kernel, dtype) -> that kernel: merge, with products in ``dtype``."""


class NotMergeableError(ValueError):
    """The method changes the model by something that no kernel holds; the message says what."""


def check_choices(config: Any) -> None:
    """Raise ``ValueError`` unless every ``Literal`` field of a dataclass holds a choice of it."""
    for name, hint in typing.get_type_hints(type(config)).items():
        choices = typing.get_args(hint)
        if typing.get_origin(hint) is Literal and getattr(config, name) not in choices:
            raise ValueError(f"{name} {getattr(config, name)!r}; choose one of {choices}")
