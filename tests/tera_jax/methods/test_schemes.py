"""Schemes of single layers: which one each gets, and that its update is the formula's."""

import functools
import string

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import load_adapter, save_adapter
from tera_jax.adapters.factory import make
from tera_jax.methods import TABLE, TargetLayer
from tera_jax.methods.tera import TeRA
from tests.margins import within

SHAPES = {"q_proj": (24, 24), "v_proj": (24, 12), "o_proj": (24, 24), "up_proj": (24, 24)}
LAYERS = tuple(TargetLayer(("layers", name), shape) for name, shape in SHAPES.items())
LISTED = ("v_proj=4x6|12", "layers/o*=3x8|24", "24|2x3x4")
MODES = {  # what LISTED says, written out: the modes and how many are the inputs'
    "q_proj": ((24, 2, 3, 4), 1, "24x24"),
    "v_proj": ((4, 6, 12), 2, "4x6|12"),
    "o_proj": ((3, 8, 24), 2, "3x8|24"),
    "up_proj": ((24, 2, 3, 4), 1, "24x24"),
}


def params():
    keys = jax.random.split(jax.random.key(1), len(SHAPES))
    kernels = {
        name: {"kernel": jax.random.normal(key, shape) / 5}
        for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)
    }
    return {"layers": kernels}


def variables(adapter):
    base = params()
    base = {"layers": {layer.path[-1]: base["layers"][layer.path[-1]] for layer in adapter.layers}}
    frozen = adapter.init_frozen(base)
    random = np.random.default_rng(3)
    d = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(1, 0.5, leaf.shape), jnp.float32),
        adapter.init_d(base, frozen),
    )
    return {"params": base, "frozen": frozen, "d": d}


@functools.cache
def listed():
    """An adapter with LISTED, and its arrays."""
    adapter = make("tera", TeRA(tensorizations=LISTED, init="normal"), LAYERS)
    return adapter, variables(adapter)


def written_out(frozen, d, modes, split):
    """Eq. 5 in float64, one einsum over all ranks."""
    ranks, sides = string.ascii_lowercase[: len(modes)], string.ascii_uppercase[: len(modes)]
    factors = [
        np.asarray(vector, np.float64)[:, None] * np.asarray(factor, np.float64)
        for vector, factor in zip(d, frozen["factors"], strict=True)
    ]
    assert [factor.shape for factor in factors] == [(mode, mode) for mode in modes]
    terms = ",".join([ranks, *(r + s for r, s in zip(ranks, sides, strict=True))])
    core = np.asarray(frozen["core"], np.float64)
    tensor = np.einsum(f"{terms}->{sides}", core, *factors, optimize=True)
    return tensor.reshape(np.prod(modes[:split]), -1)


def test_the_update_of_each_layer_is_the_formula_with_its_scheme():
    adapter, given = listed()
    assert set(given["frozen"]["shared"]) == {"24x24", "4x6|12", "3x8|24"}
    merged = adapter.merge(given)["layers"]
    for name, (modes, split, shared) in MODES.items():
        d_N = given["d"]["layers"][name]["tera"]
        expected = written_out(given["frozen"]["shared"][shared], d_N, modes, split)
        base = np.asarray(given["params"]["layers"][name]["kernel"], np.float64)
        found = np.asarray(merged[name]["kernel"], np.float64) - base
        within(np.abs(found - expected).max(), 1e-6 * np.abs(expected).max())
        other = written_out(given["frozen"]["shared"][shared], [d_N[0] + 1, *d_N[1:]], modes, split)
        assert np.abs(other - expected).max() > 0.1 * np.abs(expected).max()


def test_layers_share_a_network_where_scheme_and_shape_agree():
    for texts, sharing, sets in [
        (("[qo]_proj=24|4x6",), "shape", ["24|4x6", "24x12", "24|4x6", "24x24"]),
        (("q_proj=24|4x6", "24|4x6"), "shape", ["24x24", "24x12", "24x24", "24x24"]),
        (("q_proj=24|4x6",), "module", [f"layers/{name}:24x{SHAPES[name][1]}" for name in SHAPES]),
        (("q_proj=24|4x6",), "none", [None] * 4),
    ]:
        adapter = make("tera", TeRA(tensorizations=texts, sharing=sharing), LAYERS)
        assert [adapter.method.frozen_set(layer) for layer in adapter.layers] == sets


def test_a_row_of_a_batch_goes_through_the_scheme_of_the_layer():
    (adapter, given), x_BTI = listed(), jax.random.normal(jax.random.key(4), (1, 3, 24))
    for layer in adapter.layers:
        frozen = given["frozen"]["shared"][adapter.method.frozen_set(layer)]
        d_N = given["d"]["layers"][layer.path[-1]]["tera"]
        kernel = jnp.zeros(layer.kernel_shape)
        expected = x_BTI @ adapter.method.delta(frozen, d_N, kernel, layer)
        row = adapter.method.prepare_row(frozen, d_N, kernel, layer)
        row_B = jax.tree.map(lambda leaf: leaf[None], row)
        rows = adapter.method.branch_rows(frozen, row_B, kernel, x_BTI, layer)
        within(jnp.abs(rows - expected).max(), 2e-6 * jnp.abs(expected).max())
    assert adapter.method.branches({}, [], x_BTI, adapter.layers[:2]) is None


def test_an_adapter_with_schemes_of_layers_is_read_again(tmp_path):
    adapter, given = listed()
    save_adapter(tmp_path / "a", adapter, given, "base")
    loaded, found = load_adapter(tmp_path / "a", given["params"])
    assert loaded == adapter
    for name in ("frozen", "d"):
        assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, given[name], found[name])))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tensorizations": ("k_proj=24|4x6",)}, r"pattern 'k_proj' names no target; .*layers/q"),
        (
            {"tensorizations": ("q_proj=24|4x6", "[qo]*=24|24")},
            r"'q_proj=24\|4x6' and '\[qo\]\*=24\|24' both name layer 'layers/q_proj'; let one",
        ),
        ({"tensorizations": ("v_proj=24|4x6",)}, r"\(24, 24\), but names layer 'layers/v_proj' of"),
        ({"tensorizations": ("=24|4x6",)}, r"no pattern before '='; write one, as in 'v_proj=24"),
        ({"tensorizations": ("q_proj=24",)}, "'24' is not of the form"),
        ({"tensorizations": ("24|4x6", "24|24")}, r"two tensorizations for kernels \(24, 24\)"),
        ({"tensorizations": ("q_proj=24|24",), "zero_init_mode": 3}, r"24\|24 has 2 vectors d"),
        ({"head_dim": 7}, "head_dim 7 does not divide the 24 features of the heads of layer"),
        ({"head_dim": 1}, "head_dim 1; it must be at least 2"),
        ({"head_dim": 8, "num_modes": 1}, "num_modes 1; it must be at least 2"),
        (
            {"head_dim": 8, "tensorizations": ("[qo]_proj=24|24", "24|2x12", "24|12")},
            "head_dim 8, but no target without a listed scheme is one of q_proj, k_proj, v_proj",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make("tera", TeRA(**fields), LAYERS)


def test_a_listed_scheme_goes_before_the_heads():
    method = TeRA(head_dim=4, num_modes=3, tensorizations=("q_proj=24|24",))
    schemes = [str(method.scheme(layer)) for layer in make("tera", method, LAYERS).layers]
    assert schemes == ["24|24", "24|3x2x2", "6x2x2|24", "24|2x3x4"]
    one_head = TeRA(head_dim=12, num_modes=2).scheme(LAYERS[1])
    assert str(one_head) == "24|12"


def test_an_entry_of_d_is_a_head_where_factors_are_identities():
    """With other factors each entry reaches every head."""
    for method, init in (("tera_iden", "identity"), ("tera", "normal")):
        adapter = make(method, TABLE[method](head_dim=4, num_modes=2, init=init), LAYERS[::2])
        given = variables(adapter)
        before = adapter.merge(given)["layers"]
        d = given["d"]["layers"]
        assert [vector.size for vector in d["q_proj"][method]] == [24, 6, 4]
        assert [vector.size for vector in d["o_proj"][method]] == [6, 4, 24]
        for name, mode in (("q_proj", 1), ("o_proj", 0)):
            d[name][method][mode] = d[name][method][mode].at[1].add(1.0)
        after = adapter.merge(given)["layers"]
        for name, axis in (("q_proj", 0), ("o_proj", 1)):
            change = jnp.abs(after[name]["kernel"] - before[name]["kernel"])
            changed = change.sum(axis).reshape(6, 4).sum(1) > 0
            one = [head == 1 for head in range(6)]
            assert changed.tolist() == (one if method == "tera_iden" else [True] * 6)
