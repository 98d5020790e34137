"""The schemes of TeRA that a model can have: splits of its kernels, target layers, d at zero, init.

The enumeration is bounded. All kernels of a candidate are split by one pair of rules
(:mod:`train.planning.sides`) or along the heads of attention. Ranks are full. The target layers are
one of :data:`PLACEMENTS`. The d that starts at zero is the longest, the first or the last.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from tera_jax.adapters.targets import ALL_LINEAR, ModelLayers, choose
from tera_jax.llama.config import LlamaConfig
from tera_jax.methods import TargetLayer
from tera_jax.methods.schemes import proposed
from tera_jax.network.tensorization import Tensorization

from ..studies.variants import Variant
from . import sides

METHOD = "tera"
Init = Literal["orthogonal", "identity", "normal"]
INITS: tuple[Init, ...] = get_args(Init)
PLACEMENTS: tuple[tuple[str, ...], ...] = (
    (ALL_LINEAR,),
    ("v_proj", "o_proj"),
    ("q_proj", "v_proj"),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("k_proj", "v_proj"),
    ("v_proj",),
    ("q_proj",),
)
"""Target layers."""
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_MODES = (2, 3, 4)
"""Modes of a side along heads, the mode of heads among them."""
_ZERO: tuple[int | str, ...] = ("longest", 1, -1)

Fields = tuple[tuple[str, object], ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Target layers and the scheme of each.

    Attributes:
        targets: patterns of the layers.
        fields: of the method, which give these schemes.
        label: of the schemes, for a table.
        layers: the layers.
        schemes: one of each layer.
    """

    targets: tuple[str, ...]
    fields: Fields
    label: str
    layers: tuple[TargetLayer, ...]
    schemes: tuple[Tensorization, ...]

    @functools.cached_property
    def trained(self) -> int:
        """Trainable parameters of the model."""
        return sum(
            count * scheme.num_trainable
            for count, scheme in zip(self.counts, self.schemes, strict=True)
        )

    @functools.cached_property
    def counts(self) -> tuple[int, ...]:
        """Kernels of each target layer: those of its stack."""
        return tuple(math.prod(layer.stack) for layer in self.layers)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layout, which d starts at zero, and how the factors are drawn."""

    layout: Layout
    zero: int | str
    init: Init

    @property
    def variant(self) -> Variant:
        """As a study trains it."""
        own: list[tuple[str, object]] = [("init", self.init), ("targets", self.layout.targets)]
        if self.zero != "longest":
            own.append(("zero_init_mode", self.zero))
        return Variant(METHOD, (*self.layout.fields, *own))

    @property
    def zeroed(self) -> float:
        """The length of the d that starts at zero: the mean over all adapted kernels."""
        lengths = [scheme.ranks[zeroed(scheme, self.zero)] for scheme in self.layout.schemes]
        counts = self.layout.counts
        return sum(map(math.prod, zip(lengths, counts, strict=True))) / sum(counts)

    @property
    def is_longest_zeroed(self) -> bool:
        """Whether the d that starts at zero is the longest, in each kernel."""
        return all(
            scheme.ranks[zeroed(scheme, self.zero)] == max(scheme.ranks)
            for scheme in self.layout.schemes
        )


def zeroed(scheme: Tensorization, zero: int | str) -> int:
    """The index of the d that starts at zero."""
    if zero == "longest":
        return scheme.ranks.index(max(scheme.ranks))
    number = int(zero)
    return number - 1 if number > 0 else scheme.order + number


def layouts(
    config: LlamaConfig, found: ModelLayers, targets: Sequence[tuple[str, ...]] | None = None
) -> list[Layout]:
    """All layouts of a model, each once.

    Args:
        config: of the model.
        found: its layers.
        targets: placements in place of :data:`PLACEMENTS`, of which those are left out that name a
            layer that the model does not have.

    Raises:
        ValueError: for a given target that names no linear layer of the model.
    """
    result = []
    for placement in PLACEMENTS if targets is None else targets:
        try:
            layers = choose(found.linear, placement, "linear layer", found)
        except ValueError:
            if targets is not None:
                raise
            continue
        own = [*_split(placement, layers), *_by_heads(placement, layers, config.head_dim)]
        result += _distinct(own)
    return result


def candidates(given: Iterable[Layout], inits: Sequence[Init] = INITS) -> Iterator[Candidate]:
    """Each layout with each d at zero and each kind of factors; those that are equal once."""
    for layout in given:
        indices = {
            tuple(zeroed(scheme, zero) for scheme in layout.schemes): zero
            for zero in reversed(_ZERO)
        }
        choices = sorted(indices.values(), key=_ZERO.index)
        for zero in choices:
            for init in inits:
                yield Candidate(layout, zero, init)


def _split(placement: tuple[str, ...], layers: tuple[TargetLayer, ...]) -> Iterator[Layout]:
    shapes = sorted({layer.kernel_shape for layer in layers}, reverse=True)
    for pair in sides.pairs():
        of = {shape: sides.scheme(shape, *pair) for shape in shapes}
        texts = tuple(map(str, of.values()))
        schemes = tuple(of[layer.kernel_shape] for layer in layers)
        yield Layout(placement, (("tensorizations", texts),), " ".join(texts), layers, schemes)


def _by_heads(
    placement: tuple[str, ...], layers: tuple[TargetLayer, ...], head_dim: int
) -> Iterator[Layout]:
    """Modes of heads and of parts of a head, for layers of attention alone."""
    if not {layer.path[-1] for layer in layers} <= _ATTENTION or head_dim < 2:
        return
    for number in _HEAD_MODES:
        fields = (("num_modes", number), ("head_dim", head_dim))
        schemes = tuple(
            proposed(layer.kernel_shape, number, "out", head_dim, layer) for layer in layers
        )
        label = " ".join(dict.fromkeys(map(str, schemes)))
        yield Layout(placement, fields, f"heads: {label}", layers, schemes)


def _distinct(given: Iterable[Layout]) -> list[Layout]:
    """Those with other schemes than all before them."""
    found: dict[tuple[Tensorization, ...], Layout] = {}
    for layout in given:
        found.setdefault(layout.schemes, layout)
    return [*found.values()]
