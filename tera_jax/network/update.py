"""The weight update of a kernel: the network, contracted and unfolded."""

from typing import Any

from jax.lax import PrecisionLike
from jaxtyping import Array, Float

from tera_jax.network import contraction, random_network
from tera_jax.network.tensorization import Tensorization, unfold


def delta_w(
    frozen: dict[str, Any],
    d: list[Float[Array, " _"]],
    tensorization: Tensorization,
    precision: PrecisionLike = None,
) -> Float[Array, "_ _"]:
    """The weight update of one kernel, Eq. 5 unfolded by Eq. 1.

    Args:
        frozen: core and factors, as :func:`tera_jax.network.random_network.draw` gives them.
        d: N vectors (R_i).
        tensorization: the scheme of both.
        precision: of the matmuls, as in ``jax.lax.dot_general``.

    Returns:
        (in, out) in the type of the frozen network.

    Raises:
        ValueError: when the shapes of ``frozen`` or ``d`` are not those of the scheme.
    """
    random_network.check_shapes(frozen, d, tensorization)
    tensor = contraction.network(frozen["core"], frozen["factors"], d, precision)
    return unfold(tensor, tensorization.split)
