import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.fingerprint import fingerprint
from tera_jax.methods import tera
from tera_jax.methods.tera import TeRA
from tera_jax.network import hadamard
from tera_jax.network.tensorization import Tensorization
from tera_jax.random import seed_key
from tests.margins import close, within
from tests.marks import quick_only
from tests.tera_jax.network.networks import dense_core

SCHEMES = [
    "6|4",  # order 2
    "24x24|12x16",  # SmolLM2's v_proj, both sides folded
    "36|2x3x4x6",  # order 5, one side whole
    "2x3x4|18",  # the other side whole
    "2x2x2x2x2x2|2x2x2x2x2x2",  # order 12
    "2x2x2|3x2x2x2x3",  # order 8
    "12:5|4:3x6:2",  # ranks below the modes
    "3:2x5|7:1x2",  # a rank of one
    "576|24x24",
]
FAST = ["130|2x3", "6x2|72", "96|81"]
KEY = seed_key(0, "test")

init_frozen = jax.jit(tera.init_frozen, static_argnums=(1, 2))
delta_w = jax.jit(tera.delta_w, static_argnums=2)


def element_by_element(frozen, d, scheme):
    """Eq. 11 in float64, one element after the other, over all R_1..R_N at once."""
    core = dense_core(frozen["core"], scheme.ranks)
    weights = np.ones(core.shape)
    for axis, vector in enumerate(d):
        shape = [1] * core.ndim
        shape[axis] = -1
        weights = weights * np.asarray(vector, np.float64).reshape(shape)
    scaled = core * weights
    factors = [
        hadamard.dense(factor) if factor.ndim == 1 else np.asarray(factor, np.float64)
        for factor in frozen["factors"]
    ]
    rows = list(itertools.product(*map(range, scheme.in_modes)))
    columns = list(itertools.product(*map(range, scheme.out_modes)))
    if len(rows) * len(columns) > 5000:  # the large schemes: a sample of the elements
        random = np.random.default_rng(0)
        rows = [rows[i] for i in random.choice(len(rows), 12, replace=False)]
        columns = [columns[i] for i in random.choice(len(columns), 12, replace=False)]
    for row, column in itertools.product(rows, columns):
        value = scaled
        for factor, i in zip(factors, row + column, strict=True):
            value = np.tensordot(factor[:, i], value, axes=(0, 0))
        yield row, column, float(value)


def random_d(scheme, dtype=jnp.float32):
    random = np.random.default_rng(7)
    return [jnp.asarray(1 + 0.5 * random.standard_normal(rank), dtype) for rank in scheme.ranks]


DRAWS = [{}, {"init": "uniform"}, {"init": "identity"}]
FAST_DRAWS = [
    {"structure": "hadamard_factor"},
    {"structure": "hadamard_factor", "init": "uniform"},
]
FAST_CORES = [{"structure": "hadamard"}, {"structure": "hadamard", "gain": 3.0}]
ELEMENTS = [(SCHEMES, DRAWS), (FAST, FAST_DRAWS), ([*FAST, *SCHEMES[:4]], FAST_CORES)]
ALL = [case for pair in ELEMENTS for case in itertools.product(*pair)]
QUICK = [
    (text, fields)
    for texts, settings in ELEMENTS
    for i, text in enumerate(texts)
    for fields in [settings[i % len(settings)]]
]
"""Each scheme, and the settings in turn."""


@pytest.mark.parametrize(("text", "fields"), quick_only(QUICK, ALL, names=2))
def test_delta_w_equals_eq_11_element_by_element(text, fields):
    scheme = Tensorization.parse(text)
    frozen = init_frozen(KEY, scheme, TeRA(**fields))
    d = random_d(scheme)
    update = np.asarray(delta_w(frozen, d, scheme), np.float64)
    assert update.shape == scheme.shape
    scale = np.abs(update).max()
    assert scale > 0
    for row, column, expected in element_by_element(frozen, d, scheme):
        place = (
            int(np.ravel_multi_index(row, scheme.in_modes)),
            int(np.ravel_multi_index(column, scheme.out_modes)),
        )
        within(abs(update[place] - expected), 1e-5 * scale)


@pytest.mark.parametrize(
    ("text", "structure"),
    [*itertools.product(SCHEMES, ["dense"]), *itertools.product(FAST, ["hadamard_factor"])],
)
def test_delta_w_changes_with_every_d(text, structure):
    scheme = Tensorization.parse(text)
    frozen = init_frozen(KEY, scheme, TeRA(structure=structure))
    d = random_d(scheme)
    update = delta_w(frozen, d, scheme)
    for i in range(scheme.order):
        moved = np.array(d[i])
        moved[0] += 0.5
        other = [*d[:i], moved, *d[i + 1 :]]
        assert not np.allclose(delta_w(frozen, other, scheme), update)


@pytest.mark.parametrize(
    ("text", "structure"), [("36|2x3x4x6", "dense"), ("130|2x3", "hadamard_factor")]
)
def test_delta_w_in_float64_and_bfloat16(text, structure):
    scheme = Tensorization.parse(text)
    narrow = init_frozen(KEY, scheme, TeRA(dtype="bfloat16", structure=structure))
    d = random_d(scheme)
    with jax.enable_x64(True):
        exact = delta_w(
            jax.tree.map(lambda x: x.astype(jnp.float64), narrow),
            [v.astype(jnp.float64) for v in d],
            scheme,
        )
    update = delta_w(narrow, d, scheme)
    assert exact.dtype == jnp.float64
    assert update.dtype == jnp.bfloat16
    error = np.abs(np.asarray(update, np.float64) - np.asarray(exact))
    within(error.max(), 2e-2 * np.abs(np.asarray(exact)).max())
    assert error.max() > 0


@pytest.mark.parametrize("zero", [1, 2, 5, -1, -5])
def test_all_d_are_ones_but_one(zero):
    scheme = Tensorization.parse("4096|8x8x8x8")
    d = tera.init_d(scheme, TeRA(zero_init_mode=zero))
    index = zero - 1 if zero > 0 else 5 + zero
    assert [v.shape for v in d] == [(4096,), (8,), (8,), (8,), (8,)]
    assert all(v.dtype == jnp.float32 for v in d)
    for i, vector in enumerate(d):
        assert jnp.all(vector == (0 if i == index else 1))


@pytest.mark.parametrize("zero", [1, 3])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("text", "structure"), [("36|2x3x4x6", "dense"), ("130|2x3x4x6", "hadamard_factor")]
)
def test_the_update_is_exactly_zero_at_step_0_and_only_the_zeroed_d_has_a_gradient(
    zero, dtype, text, structure
):
    scheme = Tensorization.parse(text)
    config = TeRA(zero_init_mode=zero, dtype=jnp.dtype(dtype).name, structure=structure)
    frozen = init_frozen(KEY, scheme, config)
    d = tera.init_d(scheme, config)
    assert jnp.all(delta_w(frozen, d, scheme) == 0)
    weight = jax.random.normal(jax.random.key(1), scheme.shape)
    grads = jax.grad(lambda d: jnp.sum(weight * delta_w(frozen, d, scheme).astype(jnp.float32)))(d)
    assert [bool(jnp.any(g != 0)) for g in grads] == [i == zero - 1 for i in range(5)]


@pytest.mark.parametrize(
    ("text", "structure"),
    quick_only(
        [("64|4x16", "hadamard"), ("16x4|64", "dense"), ("130|4x16", "hadamard_factor")],
        [
            ("64|4x16", "hadamard"),
            ("130|4x16", "hadamard"),
            ("64|4x16", "dense"),
            ("16x4|64", "dense"),
            ("4x4x4|2x4x8", "dense"),
            ("130|4x16", "hadamard_factor"),
            ("16x4|72", "hadamard_factor"),
        ],
        names=2,
    ),
)
def test_gain_1_preserves_the_mean_square_and_other_gains_scale_it(text, structure):
    scheme = Tensorization.parse(text)
    x = jax.random.normal(jax.random.key(0), (256, scheme.shape[0]))
    ones = [jnp.ones(rank) for rank in scheme.ranks]

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def of_all(keys, gain, init):
        def of_one(key):
            config = TeRA(gain=gain, init=init, structure=structure)
            frozen = tera.init_frozen(key, scheme, config)
            return jnp.mean((x @ tera.delta_w(frozen, ones, scheme)) ** 2)

        return jnp.mean(jax.vmap(of_one)(keys))

    def mean_square(gain, init):
        return of_all(jax.random.split(KEY, 64), gain, init)

    for init in ("normal", "uniform"):
        assert 0.8 < mean_square(1.0, init) < 1.25
    ratio = mean_square(math.sqrt(2), "normal") / mean_square(1.0, "normal")
    within(abs(ratio / 2 - 1), 1e-3)


def test_identity_factors_make_a_scaled_core():
    """TeRA_iden: ΔW = diag(e) G diag(f)."""
    scheme = Tensorization.parse("6|2x4")
    frozen = init_frozen(KEY, scheme, TeRA(init="identity"))
    d = random_d(scheme)
    matrix = frozen["core"].reshape(6, 8)
    outer = jnp.outer(d[1], d[2]).reshape(8)
    expected = d[0][:, None] * matrix * outer[None, :]
    close(delta_w(frozen, d, scheme), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "structure"), [("36|2x3x4x6", "dense"), ("130|2x3", "hadamard_factor")]
)
def test_the_frozen_network_regenerates_from_its_seed(text, structure):
    scheme, config = Tensorization.parse(text), TeRA(structure=structure)
    drawn = [init_frozen(seed_key(seed, "set"), scheme, config) for seed in (0, 0, 1)]
    for part in (lambda frozen: frozen["factors"][0], lambda frozen: frozen["core"]):
        assert len({fingerprint(part(frozen)) for frozen in drawn}) == 2


def test_a_fast_factor_is_kept_as_its_signs_and_leaves_the_others_as_they_are():
    scheme = Tensorization.parse("130|8x9")
    for dtype in ("float32", "bfloat16"):
        dense, fast = (
            init_frozen(KEY, scheme, TeRA(dtype=dtype, structure=structure))
            for structure in ("dense", "hadamard_factor")
        )
        assert [factor.shape for factor in fast["factors"]] == [(130,), (8, 8), (9, 9)]
        assert all(leaf.dtype == jnp.dtype(dtype) for leaf in jax.tree.leaves(fast))
        assert fingerprint(fast["core"]) == fingerprint(dense["core"])
        assert fingerprint(fast["factors"][1:]) == fingerprint(dense["factors"][1:])
        expected = hadamard.signs(jax.random.fold_in(KEY, 1), 130, dtype)
        assert jnp.array_equal(fast["factors"][0], expected)
    sides = init_frozen(KEY, Tensorization.parse("130|130"), TeRA(structure="hadamard_factor"))[
        "factors"
    ]
    assert not jnp.array_equal(*sides)


def test_num_trainable_is_the_size_of_d():
    for text in SCHEMES:
        scheme = Tensorization.parse(text)
        assert scheme.num_trainable == sum(v.size for v in tera.init_d(scheme, TeRA()))


@pytest.mark.parametrize(
    ("text", "structure"),
    quick_only(
        [("16:5|4x4", "dense"), ("96|8:4x12", "hadamard"), ("8x10|72", "hadamard_factor")],
        [
            ("16|4x4", "dense"),
            ("16|4x4", "hadamard"),
            ("16|4:2x4:2", "hadamard"),
            ("130|8x10", "hadamard"),
            ("8x10|72", "hadamard"),
            ("96|8:4x12", "hadamard"),
            ("2x8|16", "dense"),
            ("16:5|4x4", "dense"),
            ("16|4:2x4:2", "dense"),
            ("130|8x10", "hadamard_factor"),
            ("8x10|72", "hadamard_factor"),
            ("96|8:4x12", "hadamard_factor"),
        ],
        names=2,
    ),
)
def test_rank_reaches_the_bound_of_theorem_1(text, structure):
    scheme = Tensorization.parse(text)
    frozen = init_frozen(KEY, scheme, TeRA(structure=structure))
    with jax.enable_x64(True):
        double = jax.tree.map(lambda x: x.astype(jnp.float64), (frozen, random_d(scheme)))
        update = np.asarray(delta_w(*double, scheme))
    assert np.linalg.matrix_rank(update) == scheme.max_rank
