"""Networks for tests."""

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax.contraction import network
from tera_jax.frozen import seed_key
from tera_jax.methods import tera
from tera_jax.methods.tera import TeraConfig
from tera_jax.tensorize import Tensorization

SCHEMES = [
    "6|4",
    "128|8x16",  # one wide factor, as in 4096|8x8x8x8
    "8x16|128",
    "96|96",  # two wide factors
    "2x3x4x2|4x3x2x2",  # groups of several modes
    "2x2x2x2x2x2x2|2x2x2x2x2x2x2",  # order 14
    "80:72|4:3x6:2",  # ranks below the modes
    "96:1|16:1x6",  # a rank of one
    "128|8x16 fast",  # a transform of one stage
    "8x24|192 fast",  # of two, on the output side
    "130|72 fast",  # on both, the sizes no powers of two
    "96|65x2:1 fast",  # among narrow factors
]


def config_of(text):
    """``fast`` after a scheme is what ``wide`` is then."""
    scheme, _, wide = text.partition(" ")
    return TeraConfig(tensorizations=(scheme,), gain=1.0, wide=wide or "dense")


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
    assert any(fast) == text.endswith("fast")
    d = [jnp.asarray(1 + 0.5 * random.standard_normal(r), jnp.float32) for r in scheme.ranks]
    return scheme, frozen["core"], frozen["factors"], d, random


def far(value, expected):
    """The largest difference as a part of the largest value."""
    value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
    return np.abs(value - expected).max() / np.abs(expected).max()


def unfolded(core, factors, d, scheme):
    return network(core, factors, d).reshape(scheme.shape)
