"""The one seam between linen and the methods: targeted linear layers read an adapted kernel.

Any linen model that is made of ``nn.Dense`` (or ``nn.DenseGeneral`` over its last axis) can be
adapted, also under ``nn.remat`` and under an ``nn.scan`` that carries the two collections::

    nn.scan(Layer, variable_axes={"params": 0, "d": 0, "frozen": 0}, ...)

The variables of an adapted model are three collections. ``params`` is the base. ``frozen`` holds
shared sets by name under ``shared`` and, for methods that give each layer its own, arrays at the
path of the module. ``d`` holds the trainable arrays at the path of the module. Below the path, the
arrays stand under the name of the method.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.linen.module import InterceptorContext

from tera_jax.frozen import seed_key
from tera_jax.methods import METHODS, Method, Site

SHARED = "shared"

Variables = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A method, its configuration and the linear layers that it adapts. Holds no arrays.

    Made by :func:`adapt`.
    """

    name: str
    config: Any
    sites: tuple[Site, ...]

    @property
    def method(self) -> Method:
        """The configured method."""
        return METHODS[self.name].method(self.config)

    def init_frozen(self) -> dict[str, Any]:
        """The ``frozen`` collection, from the seed of the configuration alone.

        A pure function: under ``jax.jit`` with ``out_shardings`` the arrays are made in place.
        """
        method = self.method
        frozen: dict[str, Any] = {}
        for site in self.sites:
            name = method.frozen_set(site)
            if name is None:
                keys = _stack_keys(seed_key(method.seed, site.name), site)
                own = _over_stack(lambda k, s=site: method.init_frozen(k, s.kernel_shape), site)
                _put(frozen, (*site.path, self.name), own(keys))
            elif name not in frozen.get(SHARED, {}):
                key = seed_key(method.seed, name)
                _put(frozen, (SHARED, name), method.init_frozen(key, site.kernel_shape))
        return frozen

    def init_d(self, params: Variables, frozen: Variables, seed: int = 0) -> dict[str, Any]:
        """The ``d`` collection, float32, with which the adapted model is the base.

        Args:
            params: the base's ``params`` collection.
            frozen: from :meth:`init_frozen`.
            seed: of what is drawn at random, if anything.
        """
        method = self.method
        d: dict[str, Any] = {}
        for site in self.sites:
            keys = _stack_keys(seed_key(seed, site.name), site)
            shared, own = self._frozen(frozen, site)

            def init(key: Any, kernel: Any, own: Any, shared: Any = shared) -> Any:
                return method.init_d(key, kernel, own if shared is None else shared)

            kernel = _matrices(_get(params, (*site.path, "kernel")), site)
            _put(d, (*site.path, self.name), _over_stack(init, site)(keys, kernel, own))
        return d

    def apply(self, model: nn.Module, variables: Variables, *args: Any, **kwargs: Any) -> Any:
        """``model.apply`` with every targeted kernel W read as W + ΔW.

        Args:
            model: the linen model that the adapter was made for.
            variables: ``params``, ``frozen``, ``d`` and what else the model takes.
            *args: of ``model.apply``, as are the keyword arguments.
            **kwargs: of ``model.apply``.

        Raises:
            ValueError: when a lifted transform keeps ``d`` or ``frozen`` from a targeted layer.
        """
        frozen = dict(variables["frozen"])
        shared = frozen.pop(SHARED, {})
        with nn.intercept_methods(self._interceptor(shared)):
            return model.apply({**variables, "frozen": frozen}, *args, **kwargs)

    def merge(self, variables: Variables) -> Any:
        """``params`` with ΔW added to every targeted kernel, in float32 and rounded once.

        Layer after layer of a stack, so that one layer's ΔW stands in memory at a time.
        """
        params = jax.tree.map(lambda leaf: leaf, dict(variables["params"]))
        for site in self.sites:
            shared, own = self._frozen(variables["frozen"], site)

            def merge(d: Any, kernel: Any, own: Any, shared: Any = shared) -> Any:
                return self.method.merge(own if shared is None else shared, d, kernel)

            d = _get(variables["d"], (*site.path, self.name))
            kernel = _get(params, (*site.path, "kernel"))
            merged = _over_stack(merge, site)(d, _matrices(kernel, site), own)
            _put(params, (*site.path, "kernel"), merged.reshape(kernel.shape))
        return params

    def _frozen(self, frozen: Variables, site: Site) -> tuple[Any, Any]:
        """The set that the site shares, or else its own arrays, stacked like the kernel."""
        name = self.method.frozen_set(site)
        if name is None:
            return None, _get(frozen, (*site.path, self.name))
        return frozen[SHARED][name], {}

    def _interceptor(self, shared: Variables) -> Callable[..., Any]:
        sites = {site.path: site for site in self.sites}
        method = self.method

        def interceptor(
            next_fun: Callable[..., Any],
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            context: InterceptorContext,
        ) -> Any:
            module = context.module
            site = sites.get(module.path) if context.method_name == "__call__" else None
            if site is None:
                return next_fun(*args, **kwargs)
            name = method.frozen_set(site)
            d = _visible(module, "d", self.name)
            frozen = shared[name] if name else _visible(module, "frozen", self.name)
            return _call(module, method, frozen, d, *args, **kwargs)

        return interceptor


def adapt(
    model: nn.Module,
    *args: Any,
    method: str = "tera",
    config: Any = None,
    targets: Sequence[str] = ("q_proj", "v_proj"),
    **kwargs: Any,
) -> Adapter:
    """Find the linear layers that ``targets`` name and make an adapter for them.

    The model is traced once with abstract values; nothing is computed.

    Args:
        model: a linen model.
        *args: example inputs of ``model``'s ``__call__``, as are other keyword arguments;
            ``jax.ShapeDtypeStruct`` does.
        method: a row of :data:`tera_jax.methods.METHODS`.
        config: an instance of that row's configuration; its defaults when None.
        targets: patterns of module paths, with the wildcards of ``fnmatch``: ``"q_proj"`` is every
            linear layer of that name, ``"decoder/*/up_proj"`` those at such an end of a path.
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
    if method not in METHODS:
        raise ValueError(f"method {method!r}; choose one of {sorted(METHODS)}")
    config = METHODS[method].config() if config is None else config
    if not isinstance(config, METHODS[method].config):
        raise ValueError(f"method {method!r} takes {METHODS[method].config}, not {type(config)}")
    layers = linear_layers(model, *args, **kwargs)
    for target in targets:
        if not any(_matches(site, target) for site in layers):
            names = ", ".join(site.name for site in layers)
            raise ValueError(f"target {target!r} names no linear layer of the model: {names}")
    sites = tuple(site for site in layers if any(_matches(site, target) for target in targets))
    if not sites:
        raise ValueError("no targets; name at least one linear layer")
    adapter = Adapter(method, config, sites)
    adapter.method.check(sites)
    return adapter


def linear_layers(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Site, ...]:
    """Every ``nn.Dense`` and every ``nn.DenseGeneral`` over its last axis, in the order of paths.

    Args:
        model: a linen model.
        *args: example inputs of ``model``'s ``__call__``, as are the keyword arguments;
            ``jax.ShapeDtypeStruct`` does.
        **kwargs: of ``model``'s ``__call__``.
    """
    kernels: dict[tuple[str, ...], tuple[int, ...]] = {}

    def record(
        next_fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: InterceptorContext,
    ) -> Any:
        result = next_fun(*args, **kwargs)
        if context.method_name == "__call__" and _is_linear(context.module):
            kernels[context.module.path] = context.module.get_variable("params", "kernel").shape
        return result

    with nn.intercept_methods(record):
        shapes = jax.eval_shape(
            lambda *args: model.init(jax.random.key(0), *args, **kwargs), *args
        )["params"]
    sites = []
    for path, shape in sorted(kernels.items()):
        stacked = _get(shapes, (*path, "kernel")).shape
        stack = stacked[: len(stacked) - len(shape)]
        if (*stack, *shape) == stacked:
            sites.append(Site(path, (shape[0], math.prod(shape[1:])), stack))
    return tuple(sites)


def _matches(site: Site, target: str) -> bool:
    return fnmatch.fnmatchcase(f"/{site.name}", f"*/{target}")


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, nn.DenseGeneral):
        return module.axis in (-1, (-1,)) and not module.batch_dims
    return isinstance(module, nn.Dense)


def _call(module: Any, method: Method, frozen: Any, d: Any, inputs: Any) -> Any:
    """``module(inputs)`` of a linear layer, with the adapted kernel in the place of its own."""
    bias = module.get_variable("params", "bias") if module.use_bias else None
    kernel = module.get_variable("params", "kernel")
    # ΔW is added to the kernel as it is stored, and the sum is cast for the product.
    x, _, bias = promote_dtype(inputs, kernel, bias, dtype=module.dtype)
    features = kernel.shape[1:]
    matrix = kernel.reshape(kernel.shape[0], -1)
    if module.dot_general is None and module.dot_general_cls is None:
        y = method.apply(frozen, d, matrix, x)
    else:  # the layer brings its own product, such as one that accumulates in float32
        dot_general = module.dot_general or module.dot_general_cls()
        contract = (((x.ndim - 1,), (0,)), ((), ()))
        merged = method.merge(frozen, d, matrix).astype(x.dtype)
        y = dot_general(x, merged, contract, precision=module.precision)
    y = y.reshape(*x.shape[:-1], *features)
    return y if bias is None else y + bias.reshape((1,) * (x.ndim - 1) + features)


def _visible(module: nn.Module, collection: str, name: str) -> Any:
    value: Any = module.get_variable(collection, name)
    if value is None:
        raise ValueError(
            f"layer {'/'.join(module.path)!r} does not see its arrays in collection "
            f"{collection!r}: pass them, and let every nn.scan, nn.vmap or nn.remat above it carry "
            f"the collection, as in nn.scan(..., variable_axes={{'params': 0, {collection!r}: 0}})"
        )
    return value


def _matrices(kernel: Any, site: Site) -> Any:
    """The kernels as (stack..., in, out)."""
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


def _get(tree: Variables, path: Sequence[str]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
