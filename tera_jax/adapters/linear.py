"""The adapter of methods that change the kernels of linear layers, one layer at a time."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tera_jax import quantize
from tera_jax.adapters import interceptor
from tera_jax.adapters.base import Adapter, Variables
from tera_jax.adapters.targets import get, put
from tera_jax.methods import METHODS, Method, NotMergeableError, Site
from tera_jax.random import seed_key
from tera_jax.trees import SHARED


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
