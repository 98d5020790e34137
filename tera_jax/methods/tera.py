"""TeRA: a frozen random core and factors shared by all layers, a few trained vectors a layer.

Source: Gu, Zhou, Iacovides and Mandic, "TeRA: Vector-based Random Tensor Network for High-Rank
Adaptation of Large Language Models", arXiv:2509.03234, Section 4.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from tera_jax.methods import schemes
from tera_jax.methods.base import KeyArray, LinearMethod, TargetLayer
from tera_jax.methods.limits import check_above_zero, check_at_least
from tera_jax.methods.product import PLAIN, Product, linear
from tera_jax.network import contraction, cost_model, projection, random_network, rows
from tera_jax.network.random_network import Init, Structure
from tera_jax.network.tensorization import Side, Tensorization
from tera_jax.network.update import delta_w as delta_w
from tera_jax.ops.numerics import add_update, full_precision, matmul_precision
from tera_jax.sharding import kernel_axes, rows_of_device


@dataclasses.dataclass(frozen=True)
class TeRA(LinearMethod):
    """TeRA: y = x (W + ΔW), Eq. 5. What the paper fixes, and what it leaves open.

    Attributes:
        tensorizations: schemes, such as ``"4096|8x8x8x8"``, in place of the proposed ones. A scheme
            goes to the kernels whose shape its modes multiply out to. ``"v_proj=4096|8x8x8x8"``
            goes first, to the layers that the pattern before ``=`` names.
        num_modes: modes of the split side in the proposed scheme, the other being whole (Section
            5: tensorizing one side is the better trade-off). 4 makes ``4096|8x8x8x8``.
        side: the side that the proposed scheme splits: ``out`` (the paper), ``in``, or ``longer``,
            which keeps the shorter side of each kernel whole. Of two equal sides that is ``out``.
        zero_init_mode: which d starts at zero, so that ΔW does: ``longest`` (the first of equals),
            1..N, or -1..-N from the end. The paper does not say which. At step 0 only the gradient
            of this one is not zero. The longest belongs to the side that is not split.
        init: the distribution of core and factors. ``orthogonal``: a normal core, and orthogonal
            factors of Kaiming's mean square. ``normal``: Kaiming, as published. ``uniform``:
            likewise. ``identity``: a normal core, and factors that are identities (TeRA_iden,
            Section 5.4).
        gain: of the whole update, in the core: with all d at one the root mean square of x ΔW is
            ``gain`` times that of x. It says how fast the d that starts at zero learns beside the
            others.
        sharing: one frozen network for each kernel ``shape``, over all layers and modules (the
            paper), for each ``module`` over its layers, or for ``none`` of them (TeRA_unique,
            Appendix J).
        seed: of the frozen network; apart from the seed of the run.
        dtype: in which core and factors are kept: ``float32`` or ``bfloat16``.
        structure: ``dense`` random arrays (the paper); ``hadamard_factor``: factors of more than 64
            rows, as that of a whole side, are fast random orthogonal transforms, of which only the
            signs are kept; ``hadamard``: the core too. The trained d and the ranks are the same. A
            transform needs its full rank.
        head_dim: of attention, such as 64. Proposed schemes of ``q_proj``, ``k_proj``, ``v_proj``
            (outputs) and ``o_proj`` (inputs) then have a mode of heads, and the rest of a head.
    """

    casts_input: ClassVar[bool] = False

    tensorizations: tuple[str, ...] = ()
    num_modes: int = 4
    side: Side = "out"
    zero_init_mode: int | Literal["longest"] = "longest"
    init: Init = "orthogonal"
    gain: float = 16.0
    sharing: Literal["shape", "module", "none"] = "shape"
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    structure: Structure = "dense"
    head_dim: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        schemes.entries(self.tensorizations)
        check_at_least(1 if self.head_dim is None else 2, num_modes=self.num_modes)
        check_at_least(2, head_dim=self.head_dim)
        if self.zero_init_mode == 0:
            raise ValueError(
                "zero_init_mode 0; the vectors d are counted from 1, or from the end by -1"
            )
        check_above_zero(gain=self.gain)
        if self.structure != "dense" and self.init == "identity":
            raise ValueError(
                f"structure {self.structure!r} with init 'identity', which makes all factors "
                "identities; set one of them to its default"
            )

    def check(self, layers: Sequence[TargetLayer]) -> None:
        """Raise ``ValueError`` when a listed scheme fits no layer, or a layer has none."""
        schemes.check(schemes.entries(self.tensorizations), layers, self.head_dim)
        for layer in layers:
            self.scheme(layer)

    def tensorization(self, kernel_shape: tuple[int, ...]) -> Tensorization:
        """The scheme of kernels (in, out) of layers that have no other by their name.

        Raises ``ValueError`` as :meth:`scheme` does.
        """
        return self._fitting(self._scheme(kernel_shape, None))

    def scheme(self, layer: TargetLayer) -> Tensorization:
        """The scheme of a layer: the listed one, or the proposed one.

        Raises:
            ValueError: when ``zero_init_mode`` is above the order of the scheme, or ``structure``
                does not fit it.
        """
        return self._fitting(self._scheme(layer.kernel_shape, layer))

    def _scheme(self, shape: tuple[int, ...], layer: TargetLayer | None) -> Tensorization:
        listed = schemes.listed(schemes.entries(self.tensorizations), shape, layer)
        return listed or schemes.proposed(shape, self.num_modes, self.side, self.head_dim, layer)

    def _fitting(self, scheme: Tensorization) -> Tensorization:
        return schemes.fitting(scheme, self.zero_init_mode, self.structure)

    def frozen_set(self, layer: TargetLayer) -> str | None:
        """By the kernel's shape and scheme, by module and shape, or none."""
        shape = "x".join(map(str, layer.kernel_shape))
        names = {"shape": shape, "module": f"{layer.name}:{shape}", "none": None}
        own = self._scheme(layer.kernel_shape, layer)
        if self.sharing == "shape" and own != self._scheme(layer.kernel_shape, None):
            return str(own)
        return names[self.sharing]

    def init_frozen(self, key: KeyArray, kernel: Any, layer: TargetLayer) -> dict[str, Any]:
        """Core and factors."""
        del kernel
        return init_frozen(key, self.scheme(layer), self)

    def init_d(self, key: KeyArray, kernel: Array, frozen: Any, layer: TargetLayer) -> list[Array]:
        """One vector a mode."""
        del key, kernel, frozen
        return init_d(self.scheme(layer), self)

    def delta(self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer) -> Array:
        """The network, contracted."""
        del kernel
        return delta_w(frozen, d, self.scheme(layer), jax.lax.Precision.HIGHEST)

    def branch(self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer) -> Array:
        """Through the network, on the side of the activations."""
        del kernel
        network = _cast(frozen, x.dtype)
        arrays = x.reshape(-1, x.shape[-1]), network["core"], network["factors"], d
        y_TJ = contraction.through(*arrays, self.scheme(layer).split, full_precision(x.dtype))
        return y_TJ.reshape(*x.shape[:-1], -1)

    def apply(
        self, frozen: Any, d: Any, kernel: Array, x: Array, layer: TargetLayer, how: Product = PLAIN
    ) -> Array:
        """By the route that the cost model finds the fastest."""
        x_TJ = x.reshape(-1, x.shape[-1])
        route = self._route(layer, len(x_TJ))
        if route == "through":
            return super().apply(frozen, d, kernel, x, layer, how)
        network = _cast(frozen, x.dtype)
        if route == "build":
            y_TJ = linear(x_TJ, self.materialize(network, d, kernel, layer, x.dtype))
        else:
            arrays = how.stored or kernel, network["core"], network["factors"], d
            exact = full_precision(x.dtype), matmul_precision()
            how_split = kernel_axes(layer.path[-1] if layer.path else ""), self.scheme(layer).split
            y_TJ = projection.product(x_TJ, *arrays, *exact, *how_split)
        return y_TJ.reshape(*x.shape[:-1], -1)

    def prepare_row(self, frozen: Any, d: Any, kernel: Any, layer: TargetLayer) -> list[Array]:
        """The d of each group of modes, multiplied out."""
        del kernel
        return rows.row(frozen["factors"], d, self.scheme(layer).split)

    def branch_rows(
        self, frozen: Any, row_B: Any, kernel: Array, x: Array, layer: TargetLayer
    ) -> Array:
        """Through the network, on the side of the activations."""
        del kernel
        return self._through_rows(frozen, [row_B], x, self.scheme(layer).split)[0]

    def branches(
        self, frozen: Any, rows_B: Sequence[Any], x: Array, layers: Sequence[TargetLayer]
    ) -> list[Array] | None:
        """Of layers of one scheme; where there is a kernel for it, by one call."""
        found = {self.scheme(layer) for layer in layers}
        return None if len(found) > 1 else self._through_rows(frozen, rows_B, x, found.pop().split)

    def _through_rows(
        self, frozen: Any, rows_B: Sequence[Any], x: Array, split: int
    ) -> list[Array]:
        network, x_BTJ = _cast(frozen, x.dtype), x.reshape(x.shape[0], -1, x.shape[-1])
        arrays = network["core"], network["factors"]
        found = rows.through(x_BTJ, *arrays, rows_B, split, full_precision(x.dtype))
        return [y_BTO.reshape(*x.shape[:-1], -1) for y_BTO in found]

    def max_rank(self, layer: TargetLayer) -> int:
        """Theorem 1."""
        return self.scheme(layer).max_rank

    def transform_sizes(self, layer: TargetLayer) -> dict[int, tuple[int, ...]]:
        """:func:`.random_network.transform_sizes` of its scheme."""
        return random_network.transform_sizes(self.scheme(layer), self.structure)

    def materializes(self, layer: TargetLayer, tokens: int) -> bool:
        """Whether one of the routes that make W + ΔW is the fastest."""
        return self._route(layer, tokens) != "through"

    def materialize(
        self, frozen: Any, d: Any, kernel: Array, layer: TargetLayer, dtype: DTypeLike
    ) -> Array:
        """W + ΔW under the name that rematerialisation keeps."""

        @jax.checkpoint  # all but the last matmul is recomputed in a fraction of its time
        def update(d: Any) -> Array:
            return delta_w(_cast(frozen, dtype), d, self.scheme(layer), full_precision(dtype))

        return checkpoint_name(add_update(kernel, update(d)), contraction.MATERIALIZED)

    def network(self, layer: TargetLayer) -> tuple[cost_model.Network, int]:
        """What the cost model knows of a layer: its network, and how many layers read its input."""
        # Layers of one shape in a module mostly read one input: two is low for q, k and v, and high
        # for q beside o.
        readers = min(2, layer.num_sharing) if self.sharing == "shape" else 1
        return cost_model.Network(self.scheme(layer), self.structure), readers

    def _route(self, layer: TargetLayer, tokens: int) -> cost_model.Route:
        network, readers = self.network(layer)
        return cost_model.route(network, rows_of_device(tokens), cost_model.device(), readers)


TeraConfig = TeRA


@dataclasses.dataclass(frozen=True)
class TeRAIden(TeRA):
    """TeRA_iden (Section 5.4): all factors are identities."""

    init: Init = "identity"


@dataclasses.dataclass(frozen=True)
class TeRAUnique(TeRA):
    """TeRA_unique (Appendix J): each kernel has a frozen network of its own."""

    sharing: Literal["shape", "module", "none"] = "none"


def init_frozen(key: KeyArray, tensorization: Tensorization, config: TeRA) -> dict[str, Any]:
    """The frozen random network of one kernel shape.

    Args:
        key: a Threefry key (:func:`tera_jax.random.seed_key`).
        tensorization: its modes and ranks.
        config: distribution, gain, type and structure.

    Returns:
        ``core`` and ``factors``, see :func:`tera_jax.network.random_network.draw`.

    Raises:
        ValueError: when ``config.structure`` does not fit the scheme.
    """
    settings = (config.init, config.gain, jnp.dtype(config.dtype), config.structure)
    return random_network.draw(key, tensorization, *settings)


def init_d(tensorization: Tensorization, config: TeRA) -> list[Float[Array, " _"]]:
    """d^(1)..d^(N), float32: all ones but the one of ``config.zero_init_mode``, which is zero."""
    ranks, zero = tensorization.ranks, config.zero_init_mode
    d = [jnp.ones(rank, jnp.float32) for rank in ranks]
    zero = ranks.index(max(ranks)) + 1 if zero == "longest" else zero
    index = zero - 1 if zero > 0 else zero
    d[index] = jnp.zeros_like(d[index])
    return d


def _cast(frozen: Any, dtype: DTypeLike) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), frozen)
