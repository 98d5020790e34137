"""A tiny model and a store of adapters, for benchmarks/soak.py and the tests of the server."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import tera_jax
from tera_jax import trees
from tera_jax.llama import load_pretrained
from tera_jax.methods.tera import TeRA
from tera_jax.serve import transfer


def make(place: Path, count: int) -> Callable[[int], dict[str, np.ndarray]]:
    """Write ``tiny``, a model with a tokenizer, and ``store`` with the adapters ``n0``, ``n1``, ...

    One more adapter lies in the directory ``one``.

    Args:
        place: a directory.
        count: of adapters in the store. Each has a d of its own.

    Returns:
        what draws the arrays of an adapter from a seed.
    """
    from tests import parts  # a checkout's

    path = parts.tiny_llama(place / "tiny")
    model, params = load_pretrained(path)
    method = TeRA(num_modes=2)
    adapter = tera_jax.adapt(model, jnp.ones((1, 2), jnp.int32), config=method)
    frozen = adapter.init_frozen(params)
    first = adapter.init_d(params, frozen)
    variables = {"params": params, "frozen": frozen, "d": first}
    tera_jax.save_adapter(place / "one", adapter, variables, str(path))

    def drawn(seed: int) -> dict[str, np.ndarray]:
        draw = np.random.default_rng(seed)
        d = jax.tree.map(
            lambda v: np.asarray(v) + 0.3 * draw.standard_normal(v.shape, np.float32), first
        )
        return dict(trees.named(d))

    with transfer.create(place / "store", like=place / "one", dtype="float32") as store:
        store.put_all((f"n{seed}", drawn(seed)) for seed in range(count))
    return drawn
