"""Networks for tests."""

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax.methods import tera
from tera_jax.methods.tera import TeRA
from tera_jax.network import hadamard
from tera_jax.network.contraction import network
from tera_jax.network.tensorization import Tensorization
from tera_jax.random import seed_key

SCHEMES = [
    "6|4",
    "128|8x16",  # one wide factor, as in 4096|8x8x8x8
    "8x16|128",
    "96|96",  # two wide factors
    "2x3x4x2|4x3x2x2",  # groups of several modes
    "2x2x2x2x2x2x2|2x2x2x2x2x2x2",  # order 14
    "80:72|4:3x6:2",  # ranks below the modes
    "96:1|16:1x6",  # a rank of one
    "128|8x16 fast",  # a transform of one Kronecker factor
    "8x24|192 fast",  # of two, on the output side
    "130|72 fast",  # on both, the sizes no powers of two
    "96|65x2:1 fast",  # among narrow factors
    "24x2|4x5 core",  # a fast core of more input ranks than output ranks
    "60:54|4x32:27 core",  # of fewer, the size no power of two
    "96|96 fast core",
    "128|8x16 fast core",
    "8x24|192 fast core",
]


def config_of(text):
    """``fast`` after a scheme: its wide factors are transforms; ``core``: these and the core."""
    scheme, *words = text.split()
    structure = "hadamard" if "core" in words else "hadamard_factor" if "fast" in words else "dense"
    return TeRA(tensorizations=(scheme,), gain=1.0, structure=structure)


def scheme_of(text):
    return Tensorization.parse(*config_of(text).tensorizations)


def example(text, seed=0):
    """A network with no d at zero, in float32."""
    scheme = scheme_of(text)
    random = np.random.default_rng(seed)
    frozen = jax.jit(tera.init_frozen, static_argnums=(1, 2))(
        seed_key(seed, "contraction"), scheme, config_of(text)
    )
    fast = [factor.ndim == 1 for factor in frozen["factors"]]
    assert any(fast) == (" fast" in text)
    assert isinstance(frozen["core"], list) == text.endswith("core")
    d = [jnp.asarray(1 + 0.5 * random.standard_normal(r), jnp.float32) for r in scheme.ranks]
    return scheme, frozen["core"], frozen["factors"], d, random


def dense_core(core, ranks):
    """Also of a fast one, in float64 by its definition."""
    if not isinstance(core, list):
        return np.asarray(core, np.float64)
    before, after = (np.asarray(signs, np.float64) for signs in core)
    matrix = hadamard.dense(jnp.ones(max(before.size, after.size)))[: before.size, : after.size]
    return (before[:, None] * matrix * after).reshape(ranks)


def far(value, expected):
    """The largest difference as a part of the largest value."""
    value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
    return np.abs(value - expected).max() / np.abs(expected).max()


def unfolded(core, factors, d, scheme):
    return network(core, factors, d).reshape(scheme.shape)
