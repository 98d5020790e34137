"""A method, configured for the layers of one model: its collections, its use, its merge.

The variables of an adapted model are three collections. ``params`` is the base. ``frozen`` holds
shared sets by name under ``shared`` and, for methods that give each layer its own, arrays at the
path of the module. ``d`` holds the trainable arrays at the path of the module. Below the path, the
arrays stand under the name of the method.

Kernels of ``params`` may be quantised (:mod:`tera_jax.quantize`): every method then sees the plain
kernels that they stand for, one layer's at a time.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tera_jax import interceptor, quantize
from tera_jax.frozen import SHARED, seed_key
from tera_jax.methods import METHODS, Method, NotMergeableError, Site, entry, full
from tera_jax.methods.prompt import PromptMethod
from tera_jax.sites import choose, embeddings, get, linear_layers, put

Variables = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Adapter(abc.ABC):
    """A method, its configuration and the layers that it adapts. Holds no arrays.

    Made by :func:`adapt`.
    """

    name: str
    config: Any
    sites: tuple[Site, ...]

    @property
    def mergeable(self) -> bool:
        """Whether :meth:`merge` gives plain weights that do what the adapted model does."""
        return True

    @property
    def regenerates(self) -> bool:
        """Whether ``frozen`` follows from the configuration and the shapes of the base alone."""
        return True

    @property
    def num_virtual_tokens(self) -> int:
        """Tokens to put before a prompt: ids from the vocabulary's size on, in order."""
        return 0

    def init_frozen(self, params: Variables) -> dict[str, Any]:
        """The ``frozen`` collection.

        A pure function: under ``jax.jit`` with ``out_shardings`` the arrays are made in place.

        Args:
            params: the base's ``params`` collection.
        """
        del params
        return {}

    @abc.abstractmethod
    def init_d(
        self, params: Variables, frozen: Variables, seed: int | jax.Array = 0
    ) -> dict[str, Any]:
        """The ``d`` collection, float32, with which the adapted model is the base.

        Exceptions, by their publications: LoRETTA, prompt tuning and P-tuning change it at once.

        Args:
            params: the base's ``params`` collection.
            frozen: from :meth:`init_frozen`.
            seed: of what is drawn at random, if anything; it may be traced.
        """

    @abc.abstractmethod
    def apply(
        self, model: nn.Module, variables: Variables, *args: Any, built: Any = None, **kwargs: Any
    ) -> Any:
        """``model.apply`` of the adapted model.

        Args:
            model: the linen model that the adapter was made for.
            variables: ``params``, ``frozen``, ``d`` and what else the model takes.
            *args: of ``model.apply``, as are the keyword arguments; ``rngs={"dropout": key}``
                turns the dropout of methods that have one on.
            built: kernels from :meth:`build`.
            **kwargs: of ``model.apply``.

        Raises:
            ValueError: when a lifted transform keeps ``d`` or ``frozen`` from a targeted layer.
        """

    def build(self, variables: Variables, tokens: int) -> dict[str, Any]:
        """The adapted kernels that :meth:`apply` would make for so many tokens, made ahead of it.

        ``apply(..., built=...)`` then takes them as they are, as often as it is called. A part of
        ``params``; empty where no layer's kernel is worth making.

        Args:
            variables: the three collections.
            tokens: rows that a layer multiplies in one call.
        """
        del variables, tokens
        return {}

    @abc.abstractmethod
    def merge(self, variables: Variables) -> Any:
        """``params`` that alone do what the adapted model does, summed in float32, rounded once.

        None of them is quantised: all kernels have the type that they were quantised from.

        Raises:
            NotMergeableError: when no weights do.
        """


class KernelAdapter(Adapter):
    """Adapts the kernels of linear layers."""

    @property
    def method(self) -> Method:
        """The configured method."""
        return METHODS[self.name].method(self.config, self.sites)

    @property
    def mergeable(self) -> bool:
        """By trial on shapes alone."""
        method = self.method
        site = dataclasses.replace(self.sites[0], stack=())
        kernel = jax.ShapeDtypeStruct(site.kernel_shape, jnp.float32)
        key = jax.eval_shape(lambda: jax.random.key(0))
        frozen = jax.eval_shape(method.init_frozen, key, kernel)
        try:
            d = jax.eval_shape(method.init_d, key, kernel, frozen)
            jax.eval_shape(method.merge, frozen, d, kernel)
        except NotMergeableError:
            return False
        return True

    @property
    def regenerates(self) -> bool:
        """As the method says."""
        return self.method.regenerates

    def init_frozen(self, params: Variables) -> dict[str, Any]:
        """One shared set for each name that the method gives, or one for each layer."""
        method = self.method
        frozen: dict[str, Any] = {}
        for site in self.sites:
            name = method.frozen_set(site)
            if name is None:
                keys = _stack_keys(seed_key(method.seed, site.name), site)

                def draw(key: Any, kernel: Any) -> Any:
                    return method.init_frozen(key, quantize.dequantize(kernel))

                own = _over_stack(draw, site)(keys, _matrices(params, site))
                if jax.tree.leaves(own):
                    put(frozen, (*site.path, self.name), own)
            elif name not in frozen.get(SHARED, {}):
                shape = jax.ShapeDtypeStruct(site.kernel_shape, jnp.float32)
                put(frozen, (SHARED, name), method.init_frozen(seed_key(method.seed, name), shape))
        return frozen

    def init_d(
        self, params: Variables, frozen: Variables, seed: int | jax.Array = 0
    ) -> dict[str, Any]:
        """Stacked like the kernels."""
        method = self.method
        d: dict[str, Any] = {}
        for site in self.sites:
            keys = _stack_keys(seed_key(seed, site.name), site)
            shared, own = self._frozen(method, frozen, site)

            def init(key: Any, kernel: Any, own: Any, shared: Any = shared) -> Any:
                frozen = own if shared is None else shared
                return method.init_d(key, quantize.dequantize(kernel), frozen)

            each = _over_stack(init, site)(keys, _matrices(params, site), own)
            put(d, (*site.path, self.name), each)
        return d

    def apply(
        self, model: nn.Module, variables: Variables, *args: Any, built: Any = None, **kwargs: Any
    ) -> Any:
        """Every targeted kernel W reads as W + ΔW."""
        frozen = dict(variables["frozen"])
        shared = frozen.pop(SHARED, {})
        params = _with_kernels(variables["params"], built or {}, self.sites)
        sites = tuple(site for site in self.sites if not _holds(built or {}, site))
        dtype = getattr(model, "dtype", None)
        seam = interceptor.kernels(self.method, sites, self.name, shared, dtype)
        # The first of the two sees a layer first, and the other the layers that it leaves alone.
        with nn.intercept_methods(seam), nn.intercept_methods(interceptor.dequantized):
            return model.apply({**variables, "params": params, "frozen": frozen}, *args, **kwargs)

    def build(self, variables: Variables, tokens: int) -> dict[str, Any]:
        """Those of the sites whose kernel the method would make; see :class:`Method`.

        None of a quantised base: they would be the copy of its kernels that it is to do without.
        """
        method, params = self.method, variables["params"]
        sites = [
            site
            for site in self.sites
            if method.builds(site.kernel_shape, tokens)
            and not quantize.is_quantized(get(params, (*site.path, "kernel")))
        ]

        def make(frozen: Any, d: Any, kernel: Any) -> Any:
            return method.build(frozen, d, kernel, kernel.dtype)

        return self._kernels(variables, sites, make)

    def merge(self, variables: Variables) -> Any:
        """Layer after layer of a stack, so that one layer's ΔW stands in memory at a time."""
        made = self._kernels(variables, self.sites, self.method.merge)
        return quantize.dequantize(_with_kernels(variables["params"], made, self.sites))

    def _kernels(
        self, variables: Variables, sites: Sequence[Site], make: Callable[..., Any]
    ) -> dict[str, Any]:
        """``make(frozen, d, kernel)`` of every layer of the sites, as a part of ``params``."""

        def plain(frozen: Any, d: Any, kernel: Any) -> Any:
            return make(frozen, d, quantize.dequantize(kernel))

        made: dict[str, Any] = {}
        for site in sites:
            shape = get(variables["params"], (*site.path, "kernel")).shape
            kernels = self.over_layers(plain, variables, site).reshape(shape)
            put(made, (*site.path, "kernel"), kernels)
        return made

    def over_layers(self, make: Callable[..., Any], variables: Variables, site: Site) -> Any:
        """``make(frozen, d, kernel)`` of every layer of a site, one at a time, stacked.

        The kernel is as ``params`` have it, (in, out) and perhaps quantised.
        """
        shared, own = self._frozen(self.method, variables["frozen"], site)

        def one(d: Any, kernel: Any, own: Any) -> Any:
            return make(own if shared is None else shared, d, kernel)

        d = get(variables["d"], (*site.path, self.name))
        return _over_stack(one, site)(d, _matrices(variables["params"], site), own)

    def _frozen(self, method: Method, frozen: Variables, site: Site) -> tuple[Any, Any]:
        """The set that the site shares, or else its own arrays, stacked like the kernel."""
        name = method.frozen_set(site)
        if name is not None:
            return frozen[SHARED][name], {}
        return None, _below(frozen, (*site.path, self.name))


class PromptAdapter(Adapter):
    """Adds virtual tokens: token ids from the size of the vocabulary on."""

    @property
    def method(self) -> PromptMethod:
        """The configured method."""
        return METHODS[self.name].method(self.config, self.sites)

    @property
    def mergeable(self) -> bool:
        """Never."""
        return False

    @property
    def num_virtual_tokens(self) -> int:
        """P."""
        return self.method.num_virtual_tokens

    def init_d(
        self, params: Variables, frozen: Variables, seed: int | jax.Array = 0
    ) -> dict[str, Any]:
        """The prompt, or what makes it."""
        del frozen
        (site,) = self.sites
        d: dict[str, Any] = {}
        embedding_VD = get(params, (*site.path, "embedding"))
        made = self.method.init_d(seed_key(seed, site.name), embedding_VD)
        put(d, (*site.path, self.name), made)
        return d

    def apply(
        self, model: nn.Module, variables: Variables, *args: Any, built: Any = None, **kwargs: Any
    ) -> Any:
        """Virtual tokens read the trained embeddings; a row without any gives the base's."""
        del built  # none
        (site,) = self.sites
        seam = interceptor.virtual_tokens(self.method, site, self.name)
        with nn.intercept_methods(seam), nn.intercept_methods(interceptor.dequantized):
            return model.apply(variables, *args, **kwargs)

    def merge(self, variables: Variables) -> Any:
        """Raises."""
        raise NotMergeableError(
            f"{self.name} adds tokens, not weights; serve base and adapter together"
        )


class FullAdapter(Adapter):
    """Trains every parameter."""

    def init_d(
        self, params: Variables, frozen: Variables, seed: int | jax.Array = 0
    ) -> dict[str, Any]:
        """A float32 copy of the base.

        Raises:
            ValueError: when the base is quantised.
        """
        del frozen, seed
        if quantize.any_quantized(params):
            raise ValueError(
                "full fine-tuning trains the base's own weights, and these are quantised; load "
                "them with quantize 'none', or choose another method"
            )
        return full.init_d(dict(params))

    def apply(
        self, model: nn.Module, variables: Variables, *args: Any, built: Any = None, **kwargs: Any
    ) -> Any:
        """The model with its trained parameters."""
        del built  # none
        rest = {k: v for k, v in variables.items() if k not in ("params", "frozen", "d")}
        return model.apply({**rest, "params": self.merge(variables)}, *args, **kwargs)

    def merge(self, variables: Variables) -> Any:
        """The trained parameters in the types of the base."""
        return full.merge(variables["d"], dict(variables["params"]))


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
        targets: patterns of module paths, see :func:`tera_jax.sites.choose`; methods that do not
            adapt kernels take no notice of them.
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


def _below(tree: Variables, path: Sequence[str]) -> Any:
    """What stands at a path of nested dictionaries; an empty one where nothing does."""
    node: Any = tree
    for part in path:
        node = node.get(part, {})
    return node


def _holds(made: Variables, site: Site) -> bool:
    return "kernel" in _below(made, site.path)


def _with_kernels(params: Variables, made: Variables, sites: Sequence[Site]) -> dict[str, Any]:
    """``params`` with the kernels that are in ``made``."""
    result = jax.tree.map(lambda leaf: leaf, dict(params))
    for site in sites:
        if _holds(made, site):
            put(result, (*site.path, "kernel"), get(made, (*site.path, "kernel")))
    return result


def _matrices(params: Variables, site: Site) -> Any:
    """The kernels as (stack..., in, out)."""
    kernel = get(params, (*site.path, "kernel"))
    if quantize.is_quantized(kernel):
        return kernel
    return kernel.reshape(*site.stack, *site.kernel_shape)


def _stack_keys(key: Any, site: Site) -> Any:
    layers = math.prod(site.stack)
    keys = jax.vmap(lambda layer: jax.random.fold_in(key, layer))(jnp.arange(layers))
    return keys.reshape(site.stack)


def _over_stack(function: Callable[..., Any], site: Site) -> Callable[..., Any]:
    """Map a function of one layer over the stack axes of its arguments, one layer at a time."""
    for _ in site.stack:
        function = _mapped(function)
    return function


def _mapped(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: jax.lax.map(lambda each: function(*each), args)
