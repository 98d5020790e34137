"""The frozen random core and factors of a network, drawn from a key.

They have Kaiming's standard deviation, 1 / sqrt(fan in), the fan in being the axis that x @ ΔW sums
over. With all d at one the root mean square of x @ ΔW is the gain times that of x.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from tera_jax import random
from tera_jax.network import core as cores
from tera_jax.network import hadamard, orthogonal
from tera_jax.network.contraction_order import NARROW
from tera_jax.network.factors import sizes
from tera_jax.network.tensorization import Tensorization

Init = Literal["normal", "uniform", "orthogonal", "identity"]
Structure = Literal["dense", "hadamard_factor", "hadamard"]
"""Which arrays of a network are random orthogonal transforms, of which only signs are kept: none,
the factors of more than :data:`NARROW` rows (:mod:`tera_jax.network.hadamard`), or these and the
core (:mod:`tera_jax.network.core`)."""


def draw(
    key: Key[Array, ""],
    scheme: Tensorization,
    init: Init,
    gain: float,
    dtype: Any,
    structure: Structure = "dense",
) -> dict[str, Any]:
    """The frozen network of one kernel shape.

    Args:
        key: a Threefry key (:func:`tera_jax.random.seed_key`).
        scheme: its modes and ranks.
        init: the distribution of the entries; ``orthogonal`` (:mod:`.orthogonal`) and ``identity``
            are of the factors alone, beside a normal core.
        gain: of the whole network, in the core.
        dtype: of the arrays.
        structure: which arrays are transforms.

    Returns:
        ``core`` (R_1..R_N), or the signs of a transform (:func:`tera_jax.network.core.draw`), and
        ``factors``, a list of N arrays: (R_i, I_i), or the signs (I_i) of the transform A^(i). It
        is orthogonal, so that its entries have Kaiming's mean square.

    Raises:
        ValueError: when the structure does not fit the scheme.
    """
    check_structure(scheme, structure)
    sample = random.uniform if init == "uniform" else random.normal

    def kaiming(address: int, shape: tuple[int, ...], fan_in: int, gain: float = 1.0) -> Array:
        std = gain / math.sqrt(fan_in)
        return sample(jax.random.fold_in(key, address), shape, std, dtype)

    factors = []
    for i, (rank, mode) in enumerate(zip(scheme.ranks, scheme.modes, strict=True), 1):
        if is_transform(mode, structure):
            factors.append(hadamard.signs(jax.random.fold_in(key, i), mode, dtype))
        elif init == "identity":
            factors.append(jnp.eye(rank, mode, dtype=dtype))
        else:
            # x @ ΔW sums over I_i on the input side and over R_i on the output side.
            fan_in = mode if i <= scheme.split else rank
            if init == "orthogonal":
                at, std = jax.random.fold_in(key, i), 1 / math.sqrt(fan_in)
                factors.append(orthogonal.draw(at, (rank, mode), std, dtype))
            else:
                factors.append(kaiming(i, (rank, mode), fan_in))
    in_rank, out_rank = scheme.core_shape
    if structure == "hadamard":
        std = gain / math.sqrt(in_rank)
        core: Any = cores.draw(jax.random.fold_in(key, 0), in_rank, out_rank, std, dtype)
    else:
        core = kaiming(0, scheme.ranks, in_rank, gain)
    return {"core": core, "factors": factors}


def is_transform(mode: int, structure: Structure) -> bool:
    """Whether the factor of a mode is a transform."""
    return structure != "dense" and mode > NARROW


def transform_sizes(scheme: Tensorization, structure: Structure) -> dict[int, tuple[int, ...]]:
    """The Kronecker factors of each transform that has more than two, by its size.

    Signs alone do not say which transform they are of. How a size splits in two is fixed; how it
    splits in three is a choice of :func:`.hadamard.kronecker_sizes`, so that an adapter names it.
    """
    found = {mode for mode in scheme.modes if is_transform(mode, structure)}
    if structure == "hadamard":
        found.add(max(scheme.core_shape))
    splits = {size: hadamard.kronecker_sizes(size) for size in sorted(found)}
    return {size: split for size, split in splits.items() if len(split) > 2}


def check_shapes(frozen: Mapping[str, Any], d: Sequence[Array], scheme: Tensorization) -> None:
    """Raise ``ValueError`` when core, factors or d do not have the shapes of a scheme."""
    core = frozen["core"]
    shapes = (
        tuple(signs.size for signs in core) if cores.is_fast(core) else core.shape,
        [sizes(factor) for factor in frozen["factors"]],
        [vector.shape for vector in d],
    )
    expected = (
        scheme.core_shape if cores.is_fast(core) else scheme.ranks,
        list(zip(scheme.ranks, scheme.modes, strict=True)),
        [(rank,) for rank in scheme.ranks],
    )
    if shapes != expected:
        raise ValueError(
            f"core, factors and d of shapes {shapes} do not fit tensorization {scheme}, which "
            f"needs {expected}"
        )


def check_structure(scheme: Tensorization, structure: Structure) -> None:
    """Raise ``ValueError`` when a transform has a rank below its mode, or no transform its size.

    A core has no other prime factors than the modes, so it has a transform where they have.
    """
    for rank, mode in zip(scheme.ranks, scheme.modes, strict=True):
        if not is_transform(mode, structure):
            continue
        if rank < mode:
            raise ValueError(
                f"structure {structure!r}, but {scheme} has rank {rank} for mode {mode}; "
                f"write {mode} for {mode}:{rank}, or set structure to 'dense'"
            )
        try:
            hadamard.kronecker_sizes(mode)
        except ValueError as error:
            raise ValueError(f"{scheme}: {error} by setting structure to 'dense'") from None
