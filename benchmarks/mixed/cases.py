"""What benchmarks/mixed_rows.py compares: a base with random weights, and the adapters of its rows.

Imports neither data sets nor the application's configuration.
"""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp

from tera_jax import adapt
from tera_jax.adapters.bank import stack
from tera_jax.adapters.base import Adapter
from tera_jax.adapters.stack import at_axes
from tera_jax.llama import Llama, LlamaConfig, stacking
from tera_jax.methods import TABLE
from tera_jax.quantize import Quantizer

LLAMA = LlamaConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    max_position_embeddings=4096,
    rms_norm_eps=1e-5,
)
"""Llama-2-7B's."""
TINY = dataclasses.replace(
    LLAMA,
    vocab_size=512,
    hidden_size=256,
    intermediate_size=384,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=64,
)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "base": ("", {}),
    "tera structured": ("tera", {"structure": "hadamard"}),
    "tera dense": ("tera", {}),
    "vera": ("vera", {}),
    "lora r=16": ("lora", {"rank": 16, "alpha": 16.0}),
}
"""Method and settings."""
_START = time.perf_counter()


def log(text: str) -> None:
    """A line with the seconds since the start."""
    print(f"[{time.perf_counter() - _START:6.1f}s] {text}", flush=True)


class Base:
    """A model, its random weights with the layers in a list, and what its adapters share."""

    def __init__(
        self, config: LlamaConfig, dtype: Any, params: Any = None, kind: str = "none"
    ) -> None:
        self.model = Llama(config, dtype=dtype, unroll=True)
        self._quantizer = None if kind == "none" else Quantizer(self._shapes, kind)
        self.params = self._draw() if params is None else params

    @functools.cached_property
    def _shapes(self) -> Any:
        tokens_BL = jnp.zeros((1, 2), jnp.int32)
        return jax.eval_shape(lambda: self.model.init(jax.random.key(0), tokens_BL)["params"])

    def _draw(self) -> dict[str, Any]:
        """Layer after layer, so that no weight stands in memory twice."""
        shapes = self._shapes
        layer = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), shapes[stacking.LAYERS]
        )
        rest = {k: v for k, v in shapes.items() if k != stacking.LAYERS}
        key, count = jax.random.key(0), self.model.config.num_layers
        layers = [self._layer(jax.random.fold_in(key, n), layer) for n in range(count)]
        return {**_random(jax.random.fold_in(key, count), rest), stacking.LAYERS: layers}

    def _layer(self, key: Any, shapes: Any) -> Any:
        drawn = {stacking.LAYERS: _random(key, shapes)}
        if self._quantizer is not None:
            drawn = jax.tree.map_with_path(self._quantizer, drawn)
        return drawn[stacking.LAYERS]

    def part(self, layers: int) -> "Base":
        """The first layers, sharing the weights."""
        config = dataclasses.replace(self.model.config, num_layers=layers)
        params = {**self.params, stacking.LAYERS: self.params[stacking.LAYERS][:layers]}
        return Base(config, self.model.dtype, params)

    def stacked(self) -> dict[str, Any]:
        """The weights with the layers in a stack: a copy."""
        return stacking.stacked(self.params)

    @property
    def read_bytes(self) -> int:
        """Of the weights that a step reads: all but the embeddings of other tokens."""
        read = {k: v for k, v in self.params.items() if k != "embed_tokens"}
        return sum(leaf.nbytes for leaf in jax.tree.leaves(read))

    def abstract(self) -> Any:
        """The weights' shapes, with the layers in a stack."""
        return jax.eval_shape(stacking.stacked, self.params)

    def frozen(self, adapter: Adapter) -> Any:
        """What the adapters share."""
        init = jax.jit(lambda params: adapter.init_frozen(stacking.stacked(params)))
        return init(self.params)


def _random(key: Any, shapes: Any) -> Any:
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves))
    drawn = [_leaf(k, s.shape, s.dtype) for k, s in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _leaf(key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Kernels preserve the mean square; scales are one."""
    if len(shape) == 1:
        return jnp.ones(shape, dtype)
    return jax.random.normal(key, shape, dtype) * jnp.asarray(shape[0] ** -0.5, dtype)


def adapter_of(case: str, model: Llama) -> Adapter:
    """The adapter of a case, of q and v; frozen networks are in the type of the model."""
    name, settings = CASES[case]
    if name == "tera":
        settings = {**settings, "dtype": jnp.dtype(model.dtype).name}
    tokens_BL = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return adapt(model, tokens_BL, method=name, config=TABLE[name](**settings))


def row_shapes(adapter: Adapter, base: Base, frozen: Any, batch: int) -> Any:
    """Of the prepared arrays of so many adapters, in the type of the base, layers in a list."""

    def prepare(frozen: Any) -> Any:
        params = base.abstract()
        d = stack(adapter, [_zeros(adapter.abstract_d(params))])
        return adapter.prepare_rows({"params": _zeros(params), "frozen": frozen, "d": d})

    def rows(axis: int, leaf: Any) -> Any:
        """Of one layer with all rows."""
        return jax.ShapeDtypeStruct((batch, *leaf.shape[axis + 1 :]), base.model.dtype)

    stacks = at_axes(adapter.layers, rows, jax.eval_shape(prepare, frozen))
    layers = [stacks[stacking.LAYERS]] * base.model.config.num_layers
    return {stacking.LAYERS: layers}


def draw_rows(adapter: Adapter, base: Base, frozen: Any, batch: int) -> Any:
    """Random arrays of :func:`row_shapes`."""
    layers = row_shapes(adapter, base, frozen, batch)[stacking.LAYERS]
    draw = jax.jit(lambda key: _normal(key, layers[0]))
    return {stacking.LAYERS: [draw(jax.random.key(n)) for n in range(len(layers))]}


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _normal(key: Any, shapes: Any) -> Any:
    leaves, tree = jax.tree.flatten(shapes)
    drawn = [
        0.02 * jax.random.normal(jax.random.fold_in(key, n), s.shape, jnp.float32)
        for n, s in enumerate(leaves)
    ]
    cast = [x.astype(s.dtype) for x, s in zip(drawn, leaves, strict=True)]
    return jax.tree.unflatten(tree, cast)
