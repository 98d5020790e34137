"""The configuration of TeRA and of its two variants."""

import dataclasses
import itertools
from typing import Literal

from tera_jax import cost, grouping, transform
from tera_jax.methods.protocol import check_choices
from tera_jax.tensorize import Tensorization, propose


@dataclasses.dataclass(frozen=True)
class TeraConfig:
    """What the paper fixes, and what it leaves open.

    Attributes:
        tensorizations: one scheme, such as ``"4096|8x8x8x8"``, for each kernel shape that is not
            to get the proposed one. A scheme goes to the kernels whose shape its modes multiply
            out to.
        parts: modes of the split side in the proposed scheme, the other being whole (Section 5:
            tensorizing one side is the better trade-off). 4 makes ``4096|8x8x8x8``.
        side: the side that the proposed scheme splits, ``out`` or ``in``.
        zero: which d starts at zero, so that the update does: 1..N, or -1..-N from the end. The
            paper does not say which. At step 0 only the gradient of this one is not zero, so it is
            by default d^(1), which belongs to the whole side and is by far the longest.
        init: the distribution of core and factors: Kaiming ``normal`` or ``uniform``; or a normal
            core with ``orthogonal`` factors of Kaiming's mean square
            (:mod:`tera_jax.orthogonal`) or with ``identity`` factors (TeRA_iden, Section 5.4).
        gain: of the whole update, in the core. Core and factors have Kaiming's standard deviation,
            1 / sqrt(fan in), the fan in being the axis that x @ delta_w sums over, so that with all
            d at one the root mean square of x @ delta_w is ``gain`` times that of x. It says how
            fast the d that starts at zero learns beside the others.
        sharing: one frozen network for each kernel ``shape``, over all layers and modules (the
            paper), for each ``module`` over its layers, or for ``none`` of them (TeRA_unique,
            Appendix J).
        seed: of the frozen network; apart from the seed of the run.
        dtype: in which core and factors are kept: ``float32`` or ``bfloat16``.
        wide: a factor of more than 64 rows, as that of a whole side: a ``dense`` random matrix (the
            paper), or a ``fast`` random orthogonal transform (:mod:`tera_jax.transform`), of which
            only the signs are kept and whose product takes two or three passes over the tensor. The
            trained d and the ranks are the same; such a factor needs its full rank.
        core: ``dense`` random numbers (the paper), or a ``fast`` random orthogonal transform of
            the input ranks into the output ranks (:mod:`tera_jax.cores`), of which only signs are
            kept. With both fast nothing of a training step multiplies two matrices of the size of
            kernel or batch but the model itself.
    """

    tensorizations: tuple[str, ...] = ()
    parts: int = 4
    side: Literal["out", "in"] = "out"
    zero: int = 1
    init: Literal["normal", "uniform", "orthogonal", "identity"] = "normal"
    gain: float = 16.0
    sharing: Literal["shape", "module", "none"] = "shape"
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    wide: Literal["dense", "fast"] = "dense"
    core: Literal["dense", "fast"] = "dense"

    def __post_init__(self) -> None:
        check_choices(self)
        shapes = [Tensorization.parse(text).shape for text in self.tensorizations]
        for shape in shapes:
            if shapes.count(shape) > 1:
                raise ValueError(
                    f"two tensorizations for kernels {shape} among {self.tensorizations}; keep one"
                )
        if self.parts < 1:
            raise ValueError(f"parts {self.parts}; the output side has at least 1 mode")
        if self.zero == 0:
            raise ValueError("zero 0; the vectors d are counted from 1, or from the end by -1")
        if not self.gain > 0:
            raise ValueError(f"gain {self.gain}; it must be above 0")
        if self.wide == "fast" and self.init == "identity":
            raise ValueError(
                "wide 'fast' with init 'identity', which makes all factors identities; "
                "set one of them to its default"
            )

    def tensorization(self, kernel_shape: tuple[int, ...]) -> Tensorization:
        """The scheme of a kernel (in, out): the listed one of that shape, or the proposed one.

        Raises:
            ValueError: when ``zero`` is above the order of the scheme, or ``wide`` or ``core`` does
                not fit it.
        """
        listed = (Tensorization.parse(text) for text in self.tensorizations)
        scheme = next((scheme for scheme in listed if scheme.shape == kernel_shape), None)
        scheme = scheme or propose(kernel_shape[0], kernel_shape[1], self.parts, self.side)
        if abs(self.zero) > scheme.order:
            raise ValueError(
                f"zero {self.zero}, but {scheme} has {scheme.order} vectors d; choose one of them"
            )
        self.transforms(scheme)
        self.check_core(scheme)
        return scheme

    def network(self, kernel_shape: tuple[int, int]) -> cost.Network:
        """What the model of costs needs to know of the network of a kernel (in, out)."""
        scheme = self.tensorization(kernel_shape)
        return cost.Network(scheme, self.wide == "fast", self.core == "fast")

    def transforms(self, scheme: Tensorization) -> list[bool]:
        """Which factors of a scheme are transforms: under ``wide="fast"``, all wide ones.

        Raises:
            ValueError: when one of these has a rank below its mode, or a size without transform.
        """
        chosen = [self.wide == "fast" and mode > grouping.NARROW for mode in scheme.modes]
        for rank, mode in itertools.compress(zip(scheme.ranks, scheme.modes, strict=True), chosen):
            if rank < mode:
                raise ValueError(
                    f"wide 'fast', but {scheme} has rank {rank} for mode {mode}; "
                    f"write {mode} for {mode}:{rank}, or set wide to 'dense'"
                )
            _check_size(mode, scheme, "wide")
        return chosen

    def check_core(self, scheme: Tensorization) -> None:
        """Raise ValueError under ``core="fast"`` when no transform has the size of the core."""
        if self.core == "fast":
            _check_size(max(scheme.core_shape), scheme, "core")


def _check_size(size: int, scheme: Tensorization, field: str) -> None:
    try:
        transform.stages(size)
    except ValueError as error:
        raise ValueError(f"{scheme}: {error} by setting {field} to 'dense'") from None


@dataclasses.dataclass(frozen=True)
class TeraIdenConfig(TeraConfig):
    """TeRA_iden (Section 5.4): all factors are identities."""

    init: Literal["normal", "uniform", "orthogonal", "identity"] = "identity"


@dataclasses.dataclass(frozen=True)
class TeraUniqueConfig(TeraConfig):
    """TeRA_unique (Appendix J): each kernel has a frozen network of its own."""

    sharing: Literal["shape", "module", "none"] = "none"
