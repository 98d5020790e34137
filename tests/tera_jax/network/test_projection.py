import jax
import jax.numpy as jnp
import pytest

from tera_jax.network import projection
from tera_jax.ops import dispatch
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.network.networks import example, far, unfolded


@pytest.mark.parametrize(("text", "one"), [("128|8x16", 128), ("192|8x24 fast", 12 + 16 + 0.5)])
def test_layers_of_one_input_and_network_share_its_projection(text, one):
    """XLA finds that they are the same.

    ``one`` is the multiply-adds of one of its entries: the product with a sign is half of one.
    """
    scheme, core, factors, d, random = example(text)
    width = scheme.shape[0]
    x = jnp.asarray(random.standard_normal((256, width)), jnp.float32)
    networks = [(core, factors), jax.tree.map(lambda leaf: leaf + 1, (core, factors))]

    def flops(second):
        def loss(d, networks):
            return two(x, scheme, d, (networks[0], networks[second]))

        step = jax.jit(jax.grad(loss)).lower([d, [2 * v for v in d]], networks)
        return step.compile().cost_analysis()["flops"]

    assert flops(1) - flops(0) == pytest.approx(2 * 256 * width * one, rel=0.05)


def two(x, scheme, d, networks):
    """A loss of two layers of one input."""
    total = jnp.float32(0)
    for value, each, vectors in zip((0.1, 0.2), networks, d, strict=True):
        y = projection.product(x, jnp.full(scheme.shape, value), *each, vectors)
        total += jnp.sum(jnp.sin(y))
    return total


def test_layers_of_one_input_name_the_same_constants():
    """Those of a rematerialised layer go through a barrier, behind which XLA compares no values."""
    scheme, core, factors, d, _ = example("192|8x24 fast")
    network = core, factors

    @jax.checkpoint
    def loss(d, network):
        return two(jnp.ones((16, 192)), scheme, d, (network, network))

    consts = jax.make_jaxpr(jax.grad(loss))([d, d], network).consts
    shapes = [const.shape for const in consts]
    for size in (12, 16):
        assert shapes.count((size, size)) == 2  # H, and H transposed


@pytest.mark.parametrize(
    "text",
    quick_only(["128|8x16 fast core"], ["128|8x16", "128|8x16 fast core", "8x16|128 fast core"]),
)
def test_the_projected_product_has_the_gradients_of_the_product_as_it_stands(text):
    """Also those of x and of the kernel, which may be wider than x."""
    scheme, core, factors, d, random = example(text)
    x, kernel = (jnp.asarray(random.standard_normal((n, 128)), jnp.float32) for n in (40, 128))

    def plain(x, kernel, d):
        return x @ (kernel + unfolded(core, factors, d, scheme))

    def projected(x, kernel, d):
        return projection.product(x, kernel, core, factors, d, split=scheme.split)

    ct = jnp.asarray(random.standard_normal((40, 128)), jnp.float32)
    expected, pull = jax.vjp(plain, x, kernel, d)
    value, mine = jax.vjp(projected, x, kernel, d)
    within(far(value, expected), 1e-5)
    for found, right in zip(*map(jax.tree.leaves, (mine(ct), pull(ct))), strict=True):
        within(far(found, right), 1e-5)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (x, core, factors))
    value, pull = jax.vjp(
        lambda *a: projection.product(*a, *half[1:], d, split=scheme.split), half[0], kernel
    )
    assert value.dtype == jnp.bfloat16
    assert [a.dtype for a in pull(ct.astype(jnp.bfloat16))] == [jnp.bfloat16, jnp.float32]


def test_a_network_that_does_not_end_with_its_input_is_refused():
    scheme, core, factors, d, _ = example("8x16|128")
    with pytest.raises(ValueError, match="one wide mode"):
        projection.product(jnp.ones((2, 128)), jnp.ones(scheme.shape), core, factors, d)


@pytest.mark.parametrize(
    ("text", "calls"),
    quick_only(
        [("256|4x4x16 fast core", 2), ("256|16x8 fast core", 1)],
        [
            ("256|4x8 fast", 1),
            ("256|4x4x16 fast core", 2),
            ("256|16x8 fast core", 1),
            ("4x4x16|256 fast core", 3),
        ],
        names=2,
    ),
)
def test_the_kernels_change_nothing(text, calls):
    """Where output modes are other groups than the core's factors there is the narrow modes' alone.

    Split inputs have a third, that transforms the cotangent.
    """
    scheme, core, factors, d, random = example(text)
    x = jnp.asarray(random.standard_normal((32, 256)), jnp.float32)
    kernel = jnp.asarray(random.standard_normal(scheme.shape), jnp.float32)

    def loss(d, x):
        y = projection.product(x, kernel, core, factors, d, split=scheme.split)
        return jnp.sum(jnp.sin(y / 16))  # of unit size: the sine sees no rounding of turns

    def results(kernels):
        with dispatch.forced(kernels):
            text = str(jax.make_jaxpr(jax.grad(loss))(d, x))
            assert text.count("pallas_call[") == (calls if kernels else 0)
            return jax.value_and_grad(loss, argnums=(0, 1))(d, x)

    for mine, expected in zip(*map(jax.tree.leaves, (results(True), results(False))), strict=True):
        within(far(mine, expected), 1e-5)
