"""A network with other vectors in every row of a batch: by the kernel, and by each row alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import sharding
from tera_jax.methods import tera
from tera_jax.methods.tera import TeRA
from tera_jax.network import contraction, rows
from tera_jax.network.tensorization import Tensorization
from tera_jax.ops import dispatch
from tera_jax.random import seed_key
from tests.margins import roundings, within
from tests.marks import quick_only

SCHEME = Tensorization.parse("256|16x16")


def made(batch, tokens, layers, dtype=jnp.float32, scheme=SCHEME):
    """The network, x and for each layer the d of every row."""
    frozen = tera.init_frozen(seed_key(0, "rows"), scheme, TeRA(structure="hadamard", gain=1.0))
    random = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(random.standard_normal(shape), jnp.float32)

    d = [[[1 + 0.5 * normal(r) for r in scheme.ranks] for _ in range(batch)] for _ in range(layers)]
    x_BTJ = normal(batch, tokens, scheme.shape[0]).astype(dtype)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), frozen), d, x_BTJ


def stacked(frozen, d):
    each = [[rows.row(frozen["factors"], one, 1) for one in layer] for layer in d]
    return [jax.tree.map(lambda *leaf: jnp.stack(leaf), *layer) for layer in each]


def norm(x):
    return float(jnp.linalg.norm(jnp.asarray(x, jnp.float32)))


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize(("batch", "tokens"), quick_only([(3, 1)], [(3, 1), (2, 8)], names=2))
def test_every_row_of_every_layer_is_what_its_own_vectors_give(batch, tokens, kernel, monkeypatch):
    monkeypatch.setattr("tera_jax.network.kernels.batch_rows._PROGRAMS", 4)
    frozen, d, x_BTJ = made(batch, tokens, 2)
    given = stacked(frozen, d)
    arrays = frozen["core"], frozen["factors"]
    with dispatch.forced(kernel):
        assert rows.takes_kernel(x_BTJ, *arrays) == kernel
        found = rows.through(x_BTJ, *arrays, given, 1)
    for layer in range(2):
        for row in range(batch):
            expected = contraction.through(x_BTJ[row], *arrays, d[layer][row], 1)
            within(norm(found[layer][row] - expected), 2e-6 * norm(expected))
            other = contraction.through(x_BTJ[row], *arrays, d[layer][row - 1], 1)
            assert norm(found[layer][row] - other) > 0.1 * norm(expected)


def test_the_kernel_in_bfloat16_is_as_near_to_float32_as_xla():
    """What goes in is rounded, the vectors are, and so is what each of six products gives."""
    exact, d, x_BTJ = made(4, 1, 1)
    expected = rows.through(x_BTJ, exact["core"], exact["factors"], stacked(exact, d), 1)[0]
    half, d, x_BTJ = made(4, 1, 1, jnp.bfloat16)
    arrays = half["core"], half["factors"]
    for kernel in (True, False):
        with dispatch.forced(kernel):
            assert rows.takes_kernel(x_BTJ, *arrays) == kernel
            found = rows.through(x_BTJ, *arrays, stacked(half, d), 1)[0]
        assert found.dtype == jnp.bfloat16
        within(
            norm(found.astype(jnp.float32) - expected), roundings(jnp.bfloat16, 8) * norm(expected)
        )
        assert norm(found.astype(jnp.float32) - expected) > 1e-4 * norm(expected)


@pytest.mark.parametrize(
    "text", ["256|4x4x4x4", "256|256", "256:128|4x4x4x4", "192|4x4x4x4", "4x4x4x4|256"]
)
def test_the_kernel_takes_no_other_networks(text):
    """Nor does a network of other sizes get another result."""
    scheme = Tensorization.parse(text)
    structure = "dense" if ":" in text else "hadamard"
    frozen = tera.init_frozen(seed_key(0, "rows"), scheme, TeRA(structure=structure, gain=1.0))
    x_BTJ = jnp.ones((2, 1, scheme.shape[0]))
    d = [[[jnp.full(rank, 1.0 + row) for rank in scheme.ranks] for row in range(2)]]
    split = len(scheme.in_modes)
    given = [
        jax.tree.map(
            lambda *leaf: jnp.stack(leaf),
            *[rows.row(frozen["factors"], one, split) for one in d[0]],
        )
    ]
    arrays = frozen["core"], frozen["factors"]
    with dispatch.forced(True):
        assert not rows.takes_kernel(x_BTJ, *arrays)
        found = rows.through(x_BTJ, *arrays, given, split)[0]
    for row in range(2):
        expected = contraction.through(x_BTJ[row], *arrays, d[0][row], split)
        within(norm(found[row] - expected), 2e-6 * norm(expected))


@pytest.mark.parametrize(("batch", "tokens"), [(2, 8), (3, 1)])
def test_gradients_by_the_kernel_are_those_of_xla(batch, tokens, monkeypatch):
    monkeypatch.setattr("tera_jax.network.kernels.batch_rows._PROGRAMS", 4)
    frozen, d, x_BTJ = made(batch, tokens, 2)
    arrays = frozen["core"], frozen["factors"]

    def loss(given, x_BTJ, kernel):
        with dispatch.forced(kernel):
            one, two = rows.through(x_BTJ, *arrays, given, 1)
        return jnp.sum(jnp.sin(one) * jnp.cos(two[:, ::-1]))

    grad = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    given = stacked(frozen, d)
    found, expected = grad(given, x_BTJ, True), grad(given, x_BTJ, False)
    other = grad(given, x_BTJ[::-1], False)
    leaves = zip(*map(jax.tree.leaves, (found, expected, other)), strict=True)
    for a, b, c in leaves:
        assert a.dtype == b.dtype
        within(norm(a - b), 5e-6 * norm(b))
        assert norm(c - b) > 0.1 * norm(b)


@pytest.mark.long
@pytest.mark.parametrize("sizes", [(2, 1, 1), (1, 2, 2)])
def test_on_a_mesh_each_device_has_its_rows(sizes):
    frozen, d, x_BTJ = made(4, 2, 2)
    given, arrays = stacked(frozen, d), (frozen["core"], frozen["factors"])

    def loss(x_BTJ, given):
        found = rows.through(x_BTJ, *arrays, given, 1)
        return sum(jnp.sum(jnp.sin((n + 1) * y)) for n, y in enumerate(found))

    step = jax.value_and_grad(loss, (0, 1))
    with dispatch.forced(False):
        expected = step(x_BTJ, given)
    with dispatch.forced(True), jax.set_mesh(mesh := sharding.make_mesh(*sizes)):
        placed = jax.device_put((x_BTJ, given), sharding.rows(mesh))
        text = str(jax.make_jaxpr(step)(*placed))
        assert "shard_map[" in text
        assert "pallas_call[" in text
        found = jax.jit(step)(*placed)
        assert not rows.takes_kernel(x_BTJ[:3], *arrays)
    for mine, right in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        within(norm(mine - right), 1e-5 * norm(right))
