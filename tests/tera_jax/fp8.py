"""Two layers with kernels in e4m3, and how far results are from each other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tera_jax import quantize


class Layers(nn.Module):
    """Two linear layers of which the second has sides that no e4m3 matmul takes."""

    dtype: object = None
    outputs: int = 24

    @nn.compact
    def __call__(self, x_BD):
        x_BD = nn.Dense(32, name="a_proj", dtype=self.dtype)(x_BD)
        return nn.Dense(self.outputs, name="b_proj", dtype=self.dtype)(x_BD)


def layers(dtype=jnp.float32):
    """The model, its kernels in e4m3 and as these read, and rows."""
    x_BD = jnp.asarray(np.random.default_rng(0).standard_normal((5, 128)), dtype)
    params = Layers().init(jax.random.key(0), x_BD.astype(jnp.float32))["params"]
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    kept = quantize.quantize(params, "fp8")
    return Layers(dtype), kept, quantize.dequantize(kept), x_BD


def flat(tree):
    return np.concatenate(
        [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)]
    )


def error(found, expected):
    return np.linalg.norm(flat(found) - flat(expected)) / np.linalg.norm(flat(expected))


def cosine(found, expected):
    a, b = flat(found), flat(expected)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)
