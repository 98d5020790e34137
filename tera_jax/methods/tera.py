"""TeRA: a frozen random core and factors shared by all layers, a few trained vectors a layer.

Source: Gu, Zhou, Iacovides and Mandic, "TeRA: Vector-based Random Tensor Network for High-Rank
Adaptation of Large Language Models", arXiv:2509.03234, Section 4.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Key

from tera_jax import contraction, cores, cost, frozen, orthogonal, projection, rounding, transform
from tera_jax.factors import sizes
from tera_jax.methods import lora
from tera_jax.methods.protocol import Method, Site
from tera_jax.methods.tera_config import TeraConfig
from tera_jax.tensorize import Tensorization, unfold


def init_frozen(
    key: Key[Array, ""], tensorization: Tensorization, config: TeraConfig
) -> dict[str, Any]:
    """The frozen random network of one kernel shape.

    Args:
        key: a Threefry key (:func:`tera_jax.frozen.seed_key`).
        tensorization: its modes and ranks.
        config: distribution, gain and type.

    Returns:
        ``core`` (R_1..R_N), or the signs of a fast one (:func:`tera_jax.cores.draw`), and
        ``factors``, a list of N arrays: (R_i, I_i), or the signs (I_i) of the transform A^(i). It
        is orthogonal, so that its entries have Kaiming's mean square.

    Raises:
        ValueError: when ``config.wide`` or ``config.core`` does not fit the scheme.
    """
    draw = frozen.uniform if config.init == "uniform" else frozen.normal
    dtype = jnp.dtype(config.dtype)

    def kaiming(address: int, shape: tuple[int, ...], fan_in: int, gain: float = 1.0) -> Array:
        std = gain / math.sqrt(fan_in)
        return draw(jax.random.fold_in(key, address), shape, std, dtype)

    factors = []
    fast = config.transforms(tensorization)
    sizes = zip(tensorization.ranks, tensorization.modes, fast, strict=True)
    for i, (rank, mode, is_transform) in enumerate(sizes, 1):
        if is_transform:
            factors.append(transform.signs(jax.random.fold_in(key, i), mode, dtype))
        elif config.init == "identity":
            factors.append(jnp.eye(rank, mode, dtype=dtype))
        else:
            # x @ delta_w sums over I_i on the input side and over R_i on the output side.
            fan_in = mode if i <= tensorization.split else rank
            if config.init == "orthogonal":
                at, std = jax.random.fold_in(key, i), 1 / math.sqrt(fan_in)
                factors.append(orthogonal.draw(at, (rank, mode), std, dtype))
            else:
                factors.append(kaiming(i, (rank, mode), fan_in))
    in_rank, out_rank = tensorization.core_shape
    if config.core == "fast":
        config.check_core(tensorization)
        std = config.gain / math.sqrt(in_rank)
        core: Any = cores.draw(jax.random.fold_in(key, 0), in_rank, out_rank, std, dtype)
    else:
        core = kaiming(0, tensorization.ranks, in_rank, config.gain)
    return {"core": core, "factors": factors}


def init_d(tensorization: Tensorization, config: TeraConfig) -> list[Float[Array, " _"]]:
    """d^(1)..d^(N), float32: all ones but the one that ``config.zero`` names, which is zero."""
    d = [jnp.ones(rank, jnp.float32) for rank in tensorization.ranks]
    zero = config.zero - 1 if config.zero > 0 else config.zero
    d[zero] = jnp.zeros_like(d[zero])
    return d


def delta_w(
    frozen: dict[str, Any],
    d: list[Float[Array, " _"]],
    tensorization: Tensorization,
    precision: Any = None,
) -> Float[Array, "_ _"]:
    """The weight update of one kernel, Eq. 5 unfolded by Eq. 1.

    Args:
        frozen: from :func:`init_frozen`.
        d: N vectors (R_i).
        tensorization: the scheme of both.
        precision: of the products, as in ``jax.lax.dot_general``.

    Returns:
        (in, out) in the type of the frozen network.

    Raises:
        ValueError: when the shapes of ``frozen`` or ``d`` are not those of the scheme.
    """
    core = frozen["core"]
    shapes = (
        tuple(signs.size for signs in core) if cores.is_fast(core) else core.shape,
        [sizes(factor) for factor in frozen["factors"]],
        [vector.shape for vector in d],
    )
    expected = (
        tensorization.core_shape if cores.is_fast(core) else tensorization.ranks,
        list(zip(tensorization.ranks, tensorization.modes, strict=True)),
        [(rank,) for rank in tensorization.ranks],
    )
    if shapes != expected:
        raise ValueError(
            f"core, factors and d of shapes {shapes} do not fit tensorization {tensorization}, "
            f"which needs {expected}"
        )
    tensor = contraction.network(core, frozen["factors"], d, precision)
    return unfold(tensor, tensorization.split)


def method(config: TeraConfig, sites: tuple[Site, ...]) -> Method:
    """TeRA as a row of the methods' table.

    Raises:
        ValueError: when a listed tensorization fits no kernel, ``zero`` is above an order, or
            ``wide`` or ``core`` does not fit a scheme.
    """
    shapes = {site.kernel_shape for site in sites}
    for text in config.tensorizations:
        if Tensorization.parse(text).shape not in shapes:
            raise ValueError(
                f"tensorization {text!r} folds a kernel {Tensorization.parse(text).shape}, "
                f"but the targets' kernels are {sorted(shapes)}; its modes must multiply out "
                "to one of these"
            )
    for shape in shapes:
        config.tensorization(shape)

    def scheme(kernel: Any) -> Tensorization:
        return config.tensorization(kernel.shape)

    def frozen_set(site: Site) -> str | None:
        shape = "x".join(map(str, site.kernel_shape))
        names = {"shape": shape, "module": f"{site.name}:{shape}", "none": None}
        return names[config.sharing]

    def init_frozen_(key: Key[Array, ""], kernel: Any) -> Any:
        return init_frozen(key, scheme(kernel), config)

    def init_d_(key: Key[Array, ""], kernel: Array, frozen: Any) -> Any:
        del key, frozen  # the ones and the zero need neither
        return init_d(scheme(kernel), config)

    def merge(frozen: Any, d: Any, kernel: Array) -> Array:
        return rounding.added(kernel, delta_w(frozen, d, scheme(kernel), jax.lax.Precision.HIGHEST))

    def build(frozen: Any, d: Any, kernel: Array, dtype: Any) -> Array:
        @jax.checkpoint  # all but the last product is made again in a fraction of its time
        def update(d: Any) -> Array:
            return delta_w(_cast(frozen, dtype), d, scheme(kernel), _precision(dtype))

        return checkpoint_name(rounding.added(kernel, update(d)), contraction.BUILT)

    readers = {
        shape: cost.readers([site.path for site in sites if site.kernel_shape == shape])
        if config.sharing == "shape"
        else 1
        for shape in shapes
    }

    def route(kernel_shape: tuple[int, int], tokens: int) -> cost.Route:
        network = config.network(kernel_shape)
        return cost.route(network, tokens, cost.device(), readers[kernel_shape])

    def builds(kernel_shape: tuple[int, int], tokens: int) -> bool:
        return route(kernel_shape, tokens) != "through"

    def apply(frozen: Any, d: Any, kernel: Array, x: Array, dropout: Any) -> Array:
        del dropout  # TeRA has none
        x_TJ, precision = x.reshape(-1, x.shape[-1]), _precision(x.dtype)
        network = _cast(frozen, x.dtype)
        core, factors = network["core"], network["factors"]
        taken = route((kernel.shape[0], kernel.shape[1]), len(x_TJ))
        if taken == "build":
            y_TJ = lora.linear(x_TJ, build(network, d, kernel, x.dtype))
        elif taken == "project":
            y_TJ = projection.product(x_TJ, kernel, core, factors, d, precision)
        else:
            split = scheme(kernel).split
            y_TJ = contraction.through(x_TJ, core, factors, d, split, precision)
            y_TJ += lora.linear(x_TJ, kernel)
        return y_TJ.reshape(*x.shape[:-1], -1)

    def max_rank(site: Site) -> int:  # Theorem 1
        return config.tensorization(site.kernel_shape).max_rank

    return Method(
        config.seed,
        True,
        frozen_set,
        init_frozen_,
        init_d_,
        merge,
        apply,
        max_rank,
        builds,
        build,
    )


def _cast(frozen: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), frozen)


def _precision(dtype: Any) -> jax.lax.Precision | None:
    """float32 gets float32 products also where the backend would take fewer bits."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
