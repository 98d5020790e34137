"""From a model and the name of a method to an adapter."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.full import FullAdapter
from tera_jax.adapters.linear import KernelAdapter
from tera_jax.adapters.prompt import PromptAdapter
from tera_jax.adapters.targets import choose, embeddings, linear_layers
from tera_jax.methods import Site, entry

_ADAPTERS: dict[str, Callable[..., Adapter]] = {
    "kernels": KernelAdapter,
    "embedding": PromptAdapter,
    "all": FullAdapter,
}


def make(name: str, config: Any, sites: tuple[Site, ...]) -> Adapter:
    """The adapter of a method for given layers.

    Raises:
        ValueError: for an unknown method, or a configuration that is another method's or does not
            fit the layers.
    """
    row = entry(name)
    if not isinstance(config, row.config):
        raise ValueError(f"method {name!r} takes a {row.config.__name__}, not {config!r}")
    row.method(config, sites)  # refuses what does not fit
    return _ADAPTERS[row.adapts](name, config, sites)


def adapt(
    model: nn.Module,
    *args: Any,
    method: str = "tera",
    config: Any = None,
    targets: Sequence[str] = ("q_proj", "v_proj"),
    **kwargs: Any,
) -> Adapter:
    """Find the layers that a method is to adapt and make an adapter for them.

    The model is traced once with abstract values; nothing is computed.

    Args:
        model: a linen model.
        *args: example inputs of ``model``'s ``__call__``, as are other keyword arguments;
            ``jax.ShapeDtypeStruct`` does.
        method: a row of :data:`tera_jax.methods.METHODS`.
        config: an instance of that row's configuration; its defaults when None.
        targets: patterns of module paths, see :func:`tera_jax.adapters.targets.choose`; methods
            that do not adapt kernels take no notice of them.
        **kwargs: of ``model``'s ``__call__``.

    Raises:
        ValueError: for an unknown method, a target that names no linear layer (the error lists
            those there are), or a configuration that does not fit the kernels.

    Example:
        >>> model = nn.Sequential([nn.Dense(8), nn.Dense(6)])
        >>> adapter = adapt(model, jnp.ones((1, 4)), targets=["layers_1"])
        >>> adapter.sites[0].kernel_shape
        (8, 6)
    """
    row = entry(method)
    if row.adapts == "kernels":
        sites = choose(linear_layers(model, *args, **kwargs), targets)
    elif row.adapts == "embedding":
        sites = embeddings(model, *args, **kwargs)
        if len(sites) != 1:
            names = [site.name for site in sites]
            raise ValueError(f"{method} needs a model with one nn.Embed, but this has {names}")
    else:
        sites = ()
    return make(method, row.config() if config is None else config, sites)
