"""Which scheme each layer of TeRA gets: its own, that of its kernel's shape, or a proposed one."""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

from tera_jax.methods.target_layer import TargetLayer
from tera_jax.network.random_network import Structure, check_structure
from tera_jax.network.tensorization import Side, Tensorization, balanced_factors, propose

_HEADS = {"q_proj": "out", "k_proj": "out", "v_proj": "out", "o_proj": "in"}
"""The side of a kernel on which the heads of attention stand, by the layer's name."""


class Entry(NamedTuple):
    """A scheme of a configuration.

    Attributes:
        text: as the configuration has it.
        pattern: of the layers that it is for; None for all of its shape.
        scheme: read from the text.
    """

    text: str
    pattern: str | None
    scheme: Tensorization


@functools.lru_cache(maxsize=64)
def entries(texts: tuple[str, ...]) -> tuple[Entry, ...]:
    """The schemes of a configuration.

    Args:
        texts: each ``SCHEME``, for kernels of its shape, or ``PATTERN=SCHEME``, for the layers that
            the pattern names (:meth:`TargetLayer.matches`).

    Raises:
        ValueError: for a text that is neither, and two schemes of a shape without patterns.
    """
    found = tuple(map(_entry, texts))
    shapes = [entry.scheme.shape for entry in found if entry.pattern is None]
    for shape in shapes:
        if shapes.count(shape) > 1:
            raise ValueError(
                f"two tensorizations for kernels {shape} among {texts}; keep one, or put the "
                "pattern of its layers before one, as in 'o_proj=SCHEME'"
            )
    return found


def _entry(text: str) -> Entry:
    pattern, equals, scheme = text.partition("=")
    if not equals:
        return Entry(text, None, Tensorization.parse(text))
    if not pattern.strip():
        raise ValueError(
            f"tensorization {text!r} has no pattern before '='; write one, as in "
            f"'v_proj={scheme}', or leave '=' out"
        )
    return Entry(text, pattern.strip(), Tensorization.parse(scheme))


def check(found: Sequence[Entry], layers: Sequence[TargetLayer], head_dim: int | None) -> None:
    """Raise ``ValueError``, with the remedy, for schemes and layers that do not go together.

    A scheme goes with no layer; two patterns name one layer; a pattern names a layer of another
    shape than its scheme's; or no layer has heads, or not of ``head_dim`` entries.
    """
    shapes = sorted({layer.kernel_shape for layer in layers})
    names = ", ".join(layer.name for layer in layers)
    for text, pattern, scheme in found:
        if pattern is None and scheme.shape not in shapes:
            raise ValueError(
                f"tensorization {text!r} folds a kernel {scheme.shape}, but the targets' kernels "
                f"are {shapes}; its modes must multiply out to one of these"
            )
        if pattern is not None and not any(layer.matches(pattern) for layer in layers):
            raise ValueError(
                f"tensorization {text!r}: its pattern {pattern!r} names no target; the targets "
                f"are {names}"
            )
    for layer in layers:
        own = [each for each in found if each.pattern is not None and layer.matches(each.pattern)]
        if len(own) > 1:
            raise ValueError(
                f"tensorizations {own[0].text!r} and {own[1].text!r} both name layer "
                f"{layer.name!r}; let one pattern name it"
            )
        if own and own[0].scheme.shape != layer.kernel_shape:
            raise ValueError(
                f"tensorization {own[0].text!r} folds a kernel {own[0].scheme.shape}, but names "
                f"layer {layer.name!r} of kernel {layer.kernel_shape}; its modes must multiply out "
                "to that, or its pattern name other layers"
            )
    if head_dim is not None:
        _check_heads(found, layers, head_dim)


def _check_heads(found: Sequence[Entry], layers: Sequence[TargetLayer], head_dim: int) -> None:
    with_heads = [
        layer
        for layer in layers
        if layer.path[-1] in _HEADS and listed(found, layer.kernel_shape, layer) is None
    ]
    if not with_heads:
        raise ValueError(
            f"head_dim {head_dim}, but no target without a listed scheme is one of "
            f"{', '.join(_HEADS)}; leave head_dim out, or write the modes into tensorizations"
        )
    for layer in with_heads:
        length = layer.kernel_shape[_HEADS[layer.path[-1]] == "out"]
        if length % head_dim:
            raise ValueError(
                f"head_dim {head_dim} does not divide the {length} features of the heads of layer "
                f"{layer.name!r}, whose kernel is {layer.kernel_shape}; give the model's head_dim"
            )


def listed(
    found: Sequence[Entry], shape: tuple[int, ...], layer: TargetLayer | None = None
) -> Tensorization | None:
    """The scheme that a configuration lists: the layer's own before that of the shape."""
    for _, pattern, scheme in found:
        if layer is not None and pattern is not None and layer.matches(pattern):
            return scheme
    return next((e.scheme for e in found if e.pattern is None and e.scheme.shape == shape), None)


def fitting(
    scheme: Tensorization, zero_init_mode: int | Literal["longest"], structure: Structure
) -> Tensorization:
    """The scheme itself.

    Raises:
        ValueError: when ``zero_init_mode`` is above its order, or ``structure`` does not fit it.
    """
    if zero_init_mode != "longest" and abs(zero_init_mode) > scheme.order:
        raise ValueError(
            f"zero_init_mode {zero_init_mode}, but {scheme} has {scheme.order} vectors d; "
            "choose one of them"
        )
    check_structure(scheme, structure)
    return scheme


def proposed(
    shape: tuple[int, ...],
    parts: int,
    side: Side,
    head_dim: int | None = None,
    layer: TargetLayer | None = None,
) -> Tensorization:
    """The scheme of a layer for which none is listed.

    Args:
        shape: of the kernel, (in, out).
        parts: modes of the side that is split.
        side: which is split, where no heads are.
        head_dim: features of a head; None to take no notice of heads.
        layer: by whose name the heads are found; None for a layer without heads.

    Example:
        >>> layer = TargetLayer(("self_attn", "v_proj"), (576, 192))
        >>> str(proposed((576, 192), 3, "out", 64, layer))
        '576|3x8x8'
    """
    heads_side = _HEADS.get(layer.path[-1]) if head_dim and layer is not None else None
    if head_dim is None or heads_side is None:
        return propose(shape[0], shape[1], parts, side)
    heads = shape[heads_side == "out"] // head_dim
    modes = (heads,) * (heads > 1) + balanced_factors(head_dim, parts - 1)
    sides = (modes, shape[1:]) if heads_side == "in" else (shape[:1], modes)
    return Tensorization(*sides, *sides)
