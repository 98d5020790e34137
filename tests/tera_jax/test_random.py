import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tera_jax import random
from tera_jax.fingerprint import fingerprint
from tera_jax.sharding import make_mesh
from tests.margins import within

KEY = random.seed_key(0, "4096x4096")


def test_normal_has_the_moments_and_tails_of_a_normal():
    z = np.asarray(random.normal(KEY, (1000, 1000), 2.0), np.float64) / 2.0
    within(abs(z.mean()), 4e-3, of_draws=True)
    within(abs(z.std() - 1), 3e-3, of_draws=True)
    within(abs((z**4).mean() - 3), 2e-2, of_draws=True)
    within(abs((np.abs(z) > 1.959964).mean() - 0.05), 1e-3, of_draws=True)
    within(abs((np.abs(z) > 3.290527).mean() - 0.001), 1.5e-4, of_draws=True)


def test_uniform_fills_its_range_evenly():
    limit = np.sqrt(3.0) * 2.0
    u = np.asarray(random.uniform(KEY, (1000, 1000), 2.0), np.float64)
    assert np.abs(u).max() <= limit
    assert np.abs(u).max() > 0.9999 * limit
    within(abs(u.std() - 2), 5e-3, of_draws=True)
    counts, _ = np.histogram(u, bins=10, range=(-limit, limit))
    within(np.abs(counts / 1e5 - 1).max(), 0.02, of_draws=True)


@pytest.mark.parametrize("draw", [random.normal, random.uniform])
def test_draws_are_exact_so_that_every_backend_gives_the_same_bits(draw):
    """What is computed in float32 equals the same mapping of the bits in float64, rounded once."""
    shape, std = (64, 64), 0.123
    bits = np.asarray(jax.random.bits(KEY, shape, jnp.uint32)).astype(np.int64)
    if draw is random.uniform:
        value = (2 * (bits >> 8) + 1 - 2**24).astype(np.float64)
        factor = np.float32(np.sqrt(3.0) * std * 2.0**-24)
    else:
        value = random._normal_quantiles()[bits >> 16].astype(np.float64)
        factor = np.float32(std)
    expected = (value * np.float64(factor)).astype(np.float32)
    assert np.array_equal(draw(KEY, shape, std), expected)
    assert not np.array_equal(draw(random.seed_key(1, "4096x4096"), shape, std), expected)
    narrow = draw(KEY, shape, std, jnp.bfloat16)
    assert jnp.array_equal(narrow, jnp.asarray(expected).astype(jnp.bfloat16))


def test_the_seed_gives_these_digits():
    """Known answers: a change would orphan every adapter that was saved without its factors."""
    assert fingerprint(random.normal(KEY, (64, 8, 8), 1.0)) == "b4b942967698cf94"
    assert fingerprint(random.uniform(KEY, (64, 8, 8), 1.0)) == "366b9c61bec5f544"


def test_addresses_part_the_seeds():
    draws = [
        random.normal(random.seed_key(seed, name), (8,), 1.0)
        for seed in (0, 1)
        for name in ("576x576", "576x192")
    ]
    assert len({tuple(draw.tolist()) for draw in draws}) == 4


def tree():
    return {
        "core": jax.random.normal(jax.random.key(0), (16, 8), jnp.float32),
        "factors": [jnp.ones((8, 4), jnp.bfloat16), jnp.arange(6, dtype=jnp.int8)],
    }


def test_fingerprint_changes_with_every_bit_path_shape_and_type():
    base = fingerprint(tree())
    assert base == fingerprint(tree())
    changed = []
    for place in [(0, 0), (15, 7)]:
        other = tree()
        other["core"] = other["core"].at[place].set(jnp.nextafter(other["core"][place], 9.0))
        changed.append(other)
    swapped = tree()
    swapped["core"] = swapped["core"].at[0].set(tree()["core"][1]).at[1].set(tree()["core"][0])
    renamed = {"kernel": tree()["core"], "factors": tree()["factors"]}
    reshaped = {**tree(), "core": tree()["core"].reshape(8, 16)}
    retyped = {**tree(), "factors": [jnp.ones((8, 4), jnp.float16), tree()["factors"][1]]}
    changed += [swapped, renamed, reshaped, retyped]
    prints = [fingerprint(other) for other in changed]
    assert len({base, *prints}) == 1 + len(changed)


def test_fingerprint_does_not_depend_on_the_layout():
    mesh = make_mesh(2, 2, 2)
    core = jax.device_put(tree()["core"], NamedSharding(mesh, P("fsdp", "tensor")))
    assert fingerprint({**tree(), "core": core}) == fingerprint(tree())


def test_fingerprint_rounded_to_bfloat16_ignores_a_wider_type():
    narrow = jax.random.normal(jax.random.key(0), (32,), jnp.bfloat16)
    wide = narrow.astype(jnp.float32)
    assert fingerprint(narrow) != fingerprint(wide)
    assert fingerprint(narrow, jnp.bfloat16) == fingerprint(wide, jnp.bfloat16)
    other = wide.at[3].multiply(1.01)
    assert fingerprint(narrow, jnp.bfloat16) != fingerprint(other, jnp.bfloat16)
