"""The exact fingerprint of a base sees bits that the rounded one does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tera_jax import quantize, sharding
from tera_jax.fingerprint import base_fingerprint, exact_fingerprint


def exact(params):
    return exact_fingerprint(params, base_fingerprint(params))


@pytest.fixture
def kernel():
    draws = np.random.default_rng(0).standard_normal((16, 32))
    return {"q_proj": {"kernel": jnp.asarray(draws, jnp.float32)}}


def with_last_bit(params):
    """The lowest bit of one float32 the other way."""
    array = np.array(params["q_proj"]["kernel"])
    array.view(np.uint32)[3, 5] ^= 1
    return {"q_proj": {"kernel": jnp.asarray(array)}}


def test_a_bit_below_bfloat16_is_seen(kernel):
    changed = with_last_bit(kernel)
    assert base_fingerprint(changed) == base_fingerprint(kernel)
    assert exact(changed) != exact(kernel)
    assert exact(jax.tree.map(jnp.copy, kernel)) == exact(kernel)


def test_entries_that_changed_places_are_seen(kernel):
    array = kernel["q_proj"]["kernel"]
    assert exact({"q_proj": {"kernel": array[::-1]}}) != exact(kernel)


@pytest.mark.parametrize("spec", [("data", None), (None, "fsdp"), ("fsdp", "data")])
def test_it_is_the_same_on_every_mesh(kernel, spec):
    mesh = sharding.make_mesh(2, 4, 1)
    layout = NamedSharding(mesh, PartitionSpec(*spec))
    assert exact(jax.device_put(kernel, layout)) == exact(kernel)


def test_a_base_in_bfloat16_has_one_fingerprint(kernel):
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), kernel)
    assert exact(rounded) == base_fingerprint(rounded) == base_fingerprint(kernel)
    assert exact(kernel) != base_fingerprint(kernel)


@pytest.mark.parametrize("kind", ["int8", "nf4", "fp8"])
def test_a_quantised_base_has_one(kind, unchecked):
    draws = np.random.default_rng(1).standard_normal((64, 128))
    params = {"q_proj": {"kernel": jnp.asarray(draws, jnp.float32)}}
    quantised = quantize.quantize(params, kind)
    assert exact(quantised) == exact(quantize.quantize(params, kind))
    changed = {"q_proj": {"kernel": params["q_proj"]["kernel"].at[0, 0].multiply(3.0)}}
    assert exact(quantised) != exact(quantize.quantize(changed, kind))
