import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.adapters import factory
from tera_jax.adapters.targets import put
from tera_jax.methods import TargetLayer
from tera_jax.methods.mora import MoRA
from tests.margins import within
from tests.tera_jax.methods.one_layer import on_layer

CASES = [  # type, (in, out), rank, r-hat
    (1, (24, 8), 2, 8),  # whole groups, no repeat
    (1, (8, 24), 2, 8),  # one group, repeated
    (1, (20, 12), 2, 8),  # padded, repeated and cut
    (1, (7, 30), 3, 11),  # r-hat above in: one group with padding
    (1, (30, 7), 3, 11),  # r-hat above out: cut
    (6, (24, 8), 2, 8),  # two groups of the input never reach the output
    (6, (8, 24), 2, 8),  # one group, repeated
    (6, (20, 12), 2, 8),  # padded; two of three groups, cut
    (6, (12, 34), 1, 6),  # repeated and cut
    (6, (7, 30), 3, 10),
    (6, (30, 7), 3, 10),
    (6, (4, 30), 10, 18),  # the padding goes around more than once
]


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.abs(a - b).max() / np.abs(b).max()


def reference(x, m, features, kind):
    """The update of one vector, entry by entry."""
    side = len(m)
    padded = [float(v) for v in x]
    while len(padded) % side:
        padded.append(padded[len(padded) - len(x)])
    groups = [padded[t * side : (t + 1) * side] for t in range(len(padded) // side)]
    if kind == 1:
        groups = [[sum(group[i] for group in groups) for i in range(side)]]
    else:
        for t, group in enumerate(groups):
            turned = [0.0] * side
            for i in range(side):
                half = side // 2
                angle = t / 10000 ** (2 * (i % half) / side)
                partner = -group[i + half] if i < half else group[i - half]
                turned[i] = group[i] * np.cos(angle) + partner * np.sin(angle)
            groups[t] = turned
    y = []
    for group in groups:
        y.extend(sum(group[i] * m[i, j] for i in range(side)) for j in range(side))
    return [y[j % len(y)] for j in range(features)]


@pytest.mark.parametrize(("kind", "shape", "rank", "side"), CASES)
def test_output_and_merged_kernel_are_those_of_the_definition(kind, shape, rank, side):
    config = MoRA(rank=rank, type=kind)
    assert config.side(shape) == side
    method = on_layer(config, (TargetLayer(("q",), shape),))
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 2, shape[0]))
    m, kernel = random.standard_normal((side, side)), random.standard_normal(shape)
    expected = np.array([[reference(row, m, shape[1], kind) for row in rows] for rows in x])
    merged = kernel + np.array([reference(row, m, shape[1], kind) for row in np.eye(shape[0])])
    with jax.enable_x64(True):
        d = {"m": jnp.asarray(m)}
        y = jax.jit(method.apply)({}, d, jnp.asarray(kernel), jnp.asarray(x), None)
        assert y.dtype == jnp.float64
        within(relative(y, x @ kernel + expected), 1e-13)
        within(relative(jax.jit(method.merge)({}, d, jnp.asarray(kernel)), merged), 1e-13)
        assert relative(y, x @ kernel) > 0.1


@pytest.mark.parametrize("kind", [1, 6])
def test_m_starts_at_zero(kind):
    method = on_layer(MoRA(rank=2, type=kind), (TargetLayer(("q",), (20, 12)),))
    d = method.init_d(jax.random.key(0), jnp.zeros((20, 12)), {})
    assert d["m"].dtype == jnp.float32
    assert np.array_equal(d["m"], np.zeros((8, 8)))


@pytest.mark.parametrize(
    ("v_shape", "kind", "count"),
    [
        ((4096, 4096), 6, 16_777_216),
        ((4096, 4096), 1, 16_777_216),
        ((4096, 1024), 6, 13_611_520),
        ((4096, 1024), 1, 32 * (512**2 + 405**2)),  # which TeRA's Table 2 rules out
    ],
)
def test_the_default_has_the_published_count(v_shape, kind, count):
    assert MoRA() == MoRA(rank=32, type=6)
    sites = tuple(
        TargetLayer(("layers", "self_attn", name), shape, (32,))
        for name, shape in [("q_proj", (4096, 4096)), ("v_proj", v_shape)]
    )
    made = factory.make("mora", MoRA(type=kind), sites)
    params = {}
    for site in sites:
        shape = (*site.stack, *site.kernel_shape)
        put(params, (*site.path, "kernel"), jax.ShapeDtypeStruct(shape, jnp.bfloat16))
    d = jax.eval_shape(made.init_d, params, {})
    assert sum(leaf.size for leaf in jax.tree.leaves(d)) == count


def test_rank_0_is_refused():
    with pytest.raises(ValueError, match="rank 0"):
        MoRA(rank=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((24, 8), "side 32 for a kernel .* lower rank"), ((1, 1), "side 8 .* lower rank")],
)
def test_a_square_matrix_above_the_kernel_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        on_layer(MoRA(), (TargetLayer(("q",), shape),))


def test_a_square_matrix_rounded_to_nothing_is_refused():
    with pytest.raises(ValueError, match=r"side 0 .* higher rank"):
        on_layer(MoRA(rank=1), (TargetLayer(("q",), (1, 1)),))
