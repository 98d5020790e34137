"""Matrices as tensors: the modes and ranks of a weight update, folding, counting."""

import dataclasses
import functools
import math
import re
from typing import Literal

import jax
from jaxtyping import Shaped

from tera_jax.network.hadamard import kronecker_sizes

Side = Literal["out", "in", "longer"]
"""Of a kernel, that a proposed scheme splits; ``longer`` is ``out`` where both are equal."""
_MODE = re.compile(r"(\d+)(?::(\d+))?")


@dataclasses.dataclass(frozen=True)
class Tensorization:
    """How an (in, out) kernel is folded into an order-N tensor, and its Tucker ranks.

    The first k modes fold the input axis, the others the output axis (Section 4 of the paper):
    ``prod(in_modes) = J_1`` and ``prod(out_modes) = J_2``. Each mode is at least 2 long, and each
    rank between 1 and its mode.

    Example:
        >>> scheme = Tensorization.parse("4096|8x8x8x8")
        >>> scheme.shape, scheme.num_trainable
        ((4096, 4096), 4128)
        >>> str(Tensorization.parse("4096:128|8x8x8:4x8"))
        '4096:128|8x8x8:4x8'
    """

    in_modes: tuple[int, ...]
    out_modes: tuple[int, ...]
    in_ranks: tuple[int, ...]
    out_ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        for side, modes, ranks in (
            ("input", self.in_modes, self.in_ranks),
            ("output", self.out_modes, self.out_ranks),
        ):
            if not modes:
                raise ValueError(f"the {side} side has no modes; give at least one, such as 4096")
            if len(modes) != len(ranks):
                raise ValueError(f"{len(ranks)} ranks for {len(modes)} modes on the {side} side")
            for mode, rank in zip(modes, ranks, strict=True):
                if mode < 2:
                    raise ValueError(f"mode {mode} on the {side} side; a mode is at least 2 long")
                if not 1 <= rank <= mode:
                    raise ValueError(
                        f"rank {rank} of mode {mode} on the {side} side; "
                        f"a rank lies between 1 and its mode"
                    )

    @classmethod
    def parse(cls, text: str) -> "Tensorization":
        """Read ``"4096|8x8x8x8"``: input modes, a bar, output modes.

        A rank below its mode follows a colon: ``"4096:128|8x8x8:4x8"``.

        Raises:
            ValueError: when the text is not of that form, or a mode or rank is out of range.
        """
        sides = text.replace(" ", "").split("|")
        parsed = [[_MODE.fullmatch(mode) for mode in side.split("x")] for side in sides]
        if len(sides) != 2 or not all(match for side in parsed for match in side):
            raise ValueError(
                f"tensorization {text!r} is not of the form 'in modes|out modes', "
                "such as '4096|8x8x8x8' or, with ranks, '4096:128|8x8x8:4x8'"
            )
        (in_modes, in_ranks), (out_modes, out_ranks) = (
            (
                tuple(int(match[1]) for match in side if match),
                tuple(int(match[2] or match[1]) for match in side if match),
            )
            for side in parsed
        )
        try:
            return cls(in_modes, out_modes, in_ranks, out_ranks)
        except ValueError as error:
            raise ValueError(f"tensorization {text!r}: {error}") from None

    def __str__(self) -> str:
        """The text that :meth:`parse` reads."""
        return "|".join(
            "x".join(
                str(mode) if mode == rank else f"{mode}:{rank}"
                for mode, rank in zip(modes, ranks, strict=True)
            )
            for modes, ranks in (
                (self.in_modes, self.in_ranks),
                (self.out_modes, self.out_ranks),
            )
        )

    @property
    def modes(self) -> tuple[int, ...]:
        """I_1..I_N, input side first."""
        return self.in_modes + self.out_modes

    @property
    def ranks(self) -> tuple[int, ...]:
        """R_1..R_N, input side first."""
        return self.in_ranks + self.out_ranks

    @property
    def order(self) -> int:
        """The number of modes, N."""
        return len(self.modes)

    @property
    def split(self) -> int:
        """The number of input modes, k."""
        return len(self.in_modes)

    @property
    def shape(self) -> tuple[int, int]:
        """(J_1, J_2), the kernel's input and output features."""
        return math.prod(self.in_modes), math.prod(self.out_modes)

    @property
    def num_trainable(self) -> int:
        """Entries of d^(1)..d^(N) for one kernel: the sum of the ranks."""
        return sum(self.ranks)

    @property
    def core_shape(self) -> tuple[int, int]:
        """(R, S), those of the unfolded core: the ranks of either side, multiplied out."""
        return math.prod(self.in_ranks), math.prod(self.out_ranks)

    @property
    def max_rank(self) -> int:
        """The largest rank that the weight update can have (Theorem 1)."""
        return min(self.core_shape)


def fold(
    matrix: Shaped[jax.Array, "J1 J2"], tensorization: Tensorization
) -> Shaped[jax.Array, "..."]:
    """The (J_1, J_2) matrix as a tensor (I_1..I_N), row-major (Fold_[N;k], Eq. 1).

    Raises:
        ValueError: when the modes do not multiply out to the matrix.
    """
    if matrix.shape != tensorization.shape:
        raise ValueError(
            f"tensorization {tensorization} folds a matrix {tensorization.shape}, "
            f"not {matrix.shape}; each side's modes must multiply out to the matrix"
        )
    return matrix.reshape(tensorization.modes)


def unfold(tensor: Shaped[jax.Array, "..."], split: int) -> Shaped[jax.Array, "J1 J2"]:
    """The tensor (I_1..I_N) as a matrix whose rows are its first ``split`` modes (Eq. 1).

    Raises:
        ValueError: unless 1 <= split < N.
    """
    if not 1 <= split < tensor.ndim:
        raise ValueError(f"split {split} of a tensor of order {tensor.ndim}; 1 <= split < order")
    return tensor.reshape(math.prod(tensor.shape[:split]), -1)


def propose(in_features: int, out_features: int, parts: int, side: Side = "out") -> Tensorization:
    """The paper's kind of scheme: one side whole, the other in ``parts`` nearly equal modes.

    Full ranks. A side with fewer than ``parts`` prime factors is split into its primes.

    Args:
        in_features: J_1, at least 2.
        out_features: J_2, at least 2.
        parts: modes of the side that is split, at least 1.
        side: the side that is split. The longer one is split as :func:`kronecker_modes` does.

    Raises:
        ValueError: when ``parts`` is below 1 or a side is shorter than 2.

    Example:
        >>> str(propose(4096, 4096, 4)), str(propose(576, 192, 2))
        ('4096|8x8x8x8', '576|12x16')
        >>> str(propose(4096, 11008, 4, "longer")), str(propose(11008, 4096, 4, "longer"))
        ('4096|2x43x8x16', '2x43x8x16|4096')
    """
    if parts < 1:
        raise ValueError(f"parts {parts}; a side is split into at least 1 mode")
    if side == "longer" and in_features > out_features:
        modes = kronecker_modes(in_features, parts)
        return Tensorization(modes, (out_features,), modes, (out_features,))
    if side == "longer":
        modes = kronecker_modes(out_features, parts)
        return Tensorization((in_features,), modes, (in_features,), modes)
    in_modes = balanced_factors(in_features, parts) if side == "in" else (in_features,)
    out_modes = balanced_factors(out_features, parts) if side == "out" else (out_features,)
    return Tensorization(in_modes, out_modes, in_modes, out_modes)


def kronecker_modes(number: int, parts: int) -> tuple[int, ...]:
    """Modes of a side whose fast transform is a Kronecker product of two: half of them for each.

    The kernels of :mod:`tera_jax.network.structured` then read a row of the side as a tile. Of
    three factors the first is one mode more, and counts tiles. A side whose transform has one
    factor, and one mode, are split by :func:`balanced_factors`.

    Example:
        >>> kronecker_modes(4096, 4), kronecker_modes(11008, 4), kronecker_modes(18944, 4)
        ((8, 8, 8, 8), (2, 43, 8, 16), (2, 2, 37, 8, 16))
    """
    try:
        sizes = kronecker_sizes(number)
    except ValueError:  # the side has no transform
        sizes = ()
    if parts < 2 or len(sizes) not in (2, 3):
        return balanced_factors(number, parts)
    *tiles, first, second = sizes
    half = parts // 2
    return (*tiles, *balanced_factors(first, half), *balanced_factors(second, parts - half))


@functools.cache
def balanced_factors(number: int, parts: int) -> tuple[int, ...]:
    """The factorisation into ``parts`` factors >= 2 with the least sum, in ascending order.

    Fewer factors when ``number`` has fewer primes.
    """
    if parts == 1:
        return (number,)
    candidates = [
        tuple(sorted((divisor, *balanced_factors(number // divisor, parts - 1))))
        for divisor in range(2, math.isqrt(number) + 1)
        if number % divisor == 0
    ]
    if not candidates:
        return (number,)
    most = max(len(factors) for factors in candidates)
    return min((f for f in candidates if len(f) == most), key=lambda f: (sum(f), f))
