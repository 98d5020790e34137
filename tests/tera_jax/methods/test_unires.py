"""UniRes beside its formula in numpy: indices, updates, gradients under scan, counts, refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import quantize
from tera_jax.adapters.factory import make
from tera_jax.adapters.targets import get, put
from tera_jax.io import peft
from tera_jax.methods import TargetLayer
from tera_jax.methods.base import bind
from tera_jax.methods.unires import UniRes
from tests.margins import within
from tests.tera_jax.adapters import small_llama
from train.config import default, parse
from train.export import require_possible
from train.params import count

ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
HEADS = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "gate_proj": 1, "up_proj": 1}
SMALL = UniRes(rank=3, length=500, init_bound=0.4)


def llama(width, kv, inner, depth):
    """The linear layers of a Llama, in the order of paths."""
    shapes = {
        "mlp": {
            "down_proj": (inner, width),
            "gate_proj": (width, inner),
            "up_proj": (width, inner),
        },
        "self_attn": {
            "k_proj": (width, kv),
            "o_proj": (width, width),
            "q_proj": (width, width),
            "v_proj": (width, kv),
        },
    }
    return [
        TargetLayer(("layers", block, name), shape, (depth,))
        for block, each in shapes.items()
        for name, shape in each.items()
    ]


SMOLLM2 = llama(576, 192, 1536, 30)
LLAMA_2_7B = llama(4096, 4096, 11008, 32)


def by_hand(layers, rank, length, seed):
    """Indices by layer, module and side, and the counts, of the published settings."""
    shapes = {layer.path[-1]: layer.kernel_shape for layer in layers}
    (width, _), depth = shapes["q_proj"], layers[0].stack[0]
    size = width * rank
    head = {"attention": 0, "o_proj": size, "mlp": 2 * size, "down_proj": 3 * size}
    index, places = {}, []
    for layer in range(depth):
        for name in ORDER:
            rows, columns = shapes[name]
            for side, shape in (("a", (rows, rank)), ("b", (rank, columns))):
                reads = side == "a" and name in HEADS
                if reads or (side == "b" and name in ("o_proj", "down_proj")):
                    group = ("attention", "mlp")[HEADS[name]] if reads else name
                    first = head[group]
                    index[layer, name, side] = np.arange(first, first + size).reshape(shape)
                else:
                    places.append(((layer, name, side), shape))
    total = sum(rows * columns for _, (rows, columns) in places)
    free = length - 4 * size
    random = np.random.default_rng(seed)
    drawn = np.concatenate(
        [np.repeat(np.arange(free), total // free), random.choice(free, total % free, False)]
    )
    random.shuffle(drawn)
    counts = np.bincount(drawn, minlength=free)
    for key, (rows, columns) in places:
        part, drawn = drawn[: rows * columns], drawn[rows * columns :]
        index[key] = 4 * size + part.reshape(columns, rows).T
    return index, np.concatenate([np.full(4 * size, round(counts.mean())), counts])


@pytest.mark.parametrize("kernel_rank", [0, 2])
def test_indices_and_counts_are_those_of_the_formula_on_smollm2(kernel_rank):
    method = UniRes(length=36_000, kernel_rank=kernel_rank)
    index, counts = by_hand(SMOLLM2, 4, 36_000, 42)
    frozen = method.init_frozen_all(bind(method, SMOLLM2))
    assert np.array_equal(frozen.shared["counts"], counts)
    assert set(counts[: 4 * 4 * 576]) == {28}
    for layer in SMOLLM2:
        for side, found in frozen.own[layer.name].items():
            for place, one in enumerate(np.asarray(found)):
                assert np.array_equal(one, index[place, layer.path[-1], side])
    other, _ = by_hand(SMOLLM2, 4, 36_000, 43)
    assert not np.array_equal(other[0, "q_proj", "b"], index[0, "q_proj", "b"])
    assert np.array_equal(other[0, "q_proj", "a"], index[0, "q_proj", "a"])


@pytest.mark.parametrize("kernel_rank", [0, 1, 3])
def test_updates_are_those_of_the_formula(kernel_rank):
    layers = llama(16, 8, 24, 2)
    method = UniRes(rank=3, length=300, kernel_rank=kernel_rank, kernel_gain=2.5)
    index, counts = by_hand(layers, 3, 300, 42)
    frozen = method.init_frozen_all(bind(method, layers))
    random = np.random.default_rng(0)
    theta = random.standard_normal(300)
    with jax.enable_x64(True):
        for layer in layers:
            sizes = 3, layer.kernel_shape, (5, layer.kernel_shape[0])
            u, w, x = map(random.standard_normal, sizes)
            a, b = (
                theta[index[1, layer.path[-1], s]] / np.sqrt(counts[index[1, layer.path[-1], s]])
                for s in "ab"
            )
            terms = [(1 + 0.3 * u[k]) * np.outer(a[:, k], b[k]) for k in range(3)]
            weights = [1.0 if k < 3 - kernel_rank else 2.5 * w for k in range(3)]
            expected = sum(term * weight for term, weight in zip(terms, weights, strict=True))
            one = {**{side: v[1] for side, v in frozen.own[layer.name].items()}, **frozen.shared}
            d = {"theta": jnp.asarray(theta), "gates": jnp.asarray(u)}
            kernel = jnp.asarray(w)
            size = np.abs(expected).max()
            delta = method.delta(one, d, kernel, layer)
            within(np.abs(delta - expected).max(), 1e-14 * size)
            assert np.linalg.matrix_rank(delta) == method.max_rank(layer)
            found = method.branch(one, d, kernel, jnp.asarray(x), layer)
            within(np.abs(found - x @ expected).max(), 1e-13 * np.abs(x @ expected).max())
            d["gates"] = d["gates"].at[0].add(0.1)
            assert np.abs(method.delta(one, d, kernel, layer) - expected).max() > 1e-3 * size


@pytest.mark.long
@pytest.mark.parametrize("variant", small_llama.VARIANTS)
@pytest.mark.parametrize("kernel_rank", [0, 1, 3])
def test_shared_matrices_get_the_gradients_of_all_layers(variant, kernel_rank):
    """Against kernels that are made by hand, outside the model."""
    config = UniRes(rank=3, length=500, init_bound=0.4, kernel_rank=kernel_rank)
    adapter, model, _, v, tokens_BL = small_llama.made("unires", config, ORDER, variant)
    index, counts = by_hand(adapter.layers, 3, 500, 42)
    stacked = {
        (name, side): np.stack([index[layer, name, side] for layer in range(2)])
        for name in ORDER
        for side in "ab"
    }
    scale = jnp.asarray(1 / np.sqrt(counts), jnp.float32)

    def loss_by_hand(d):
        params, theta = jax.tree.map(lambda leaf: leaf, v["params"]), d["shared"]["unires"]["theta"]
        for layer in adapter.layers:
            a_NIR, b_NRO = ((theta * scale)[stacked[layer.path[-1], side]] for side in "ab")
            s_NR = 1 + 0.3 * get(d, (*layer.path, "unires"))["gates"]
            terms_RNIO = jnp.einsum("nir,nr,nro->rnio", a_NIR, s_NR, b_NRO)
            kernel_NIO = get(params, (*layer.path, "kernel"))
            added_NIO = terms_RNIO[: 3 - kernel_rank].sum(0)
            scaled_NIO = 5 * kernel_NIO * terms_RNIO[3 - kernel_rank :].sum(0)
            put(params, (*layer.path, "kernel"), kernel_NIO + added_NIO + scaled_NIO)
        return small_llama.loss(model.apply({"params": params}, tokens_BL)[0], tokens_BL)

    def loss(d):
        return small_llama.loss(adapter.apply(model, {**v, "d": d}, tokens_BL)[0], tokens_BL)

    value, found = jax.jit(jax.value_and_grad(loss))(v["d"])
    expected_value, expected = jax.jit(jax.value_and_grad(loss_by_hand))(v["d"])
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    for ours, same in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(ours, same, atol=5e-5 * np.abs(same).max())
        assert np.all(np.any(np.asarray(ours) != 0, axis=-1))


def test_layers_of_unknown_names_are_gathered_on_both_sides():
    layers = [TargetLayer((name,), (12, 8)) for name in ("q_proj", "other")]
    frozen = UniRes(rank=2, length=60).init_frozen_all(layers).own
    assert np.array_equal(frozen["q_proj"]["a"], np.arange(24).reshape(12, 2))
    for name, side in (("q_proj", "b"), ("other", "a"), ("other", "b")):
        assert np.asarray(frozen[name][side]).min() >= 24
    named = UniRes(rank=2, length=60, readers=("q_proj|other",)).init_frozen_all(layers).own
    assert np.array_equal(named["other"]["a"], named["q_proj"]["a"])


def test_layers_of_other_sizes_share_a_matrix_of_their_size():
    layers = [
        TargetLayer((tower, "q_proj"), (size, 8), (3,)) for tower, size in (("a", 12), ("b", 10))
    ]
    frozen = UniRes(rank=2, length=60).init_frozen_all(layers).own
    for place in range(3):
        assert np.array_equal(frozen["a/q_proj"]["a"][place].ravel(), np.arange(24))
        assert np.array_equal(frozen["b/q_proj"]["a"][place].ravel(), 24 + np.arange(20))


def test_the_start_is_uniform_with_gates_of_one():
    method = UniRes(length=4000, init_bound=0.3)
    theta = method.init_shared_d(jax.random.key(0), [])["theta"]
    assert theta.shape == (4000,)
    assert 0.29 < np.abs(theta).max() <= 0.3
    within(abs(np.std(theta) * np.sqrt(3) / 0.3 - 1), 0.03, of_draws=True)
    gates = method.init_d(jax.random.key(0), jnp.ones((2, 2)), {}, SMOLLM2[0])["gates"]
    assert np.array_equal(gates, np.zeros(4))


def test_counts_of_trained_parameters(capsys):
    argv = ["--model=smollm2-135m", "--method=unires", "--json"]
    for extra, trained in (([], 37_704), (["--set", "length=36000"], 36_840)):
        count.main([*argv, *extra])
        assert json.loads(capsys.readouterr().out)["trained"] == trained


def test_the_default_length_is_four_times_the_shared_matrices_or_all_there_is():
    def length(layers, **fields):
        shared = jax.eval_shape(
            lambda k: UniRes(**fields).init_shared_d(k, layers), jax.random.key(0)
        )
        return shared["theta"].size

    assert length(LLAMA_2_7B) == 4 * 65_536
    assert length(LLAMA_2_7B, rank=8) == 8 * 65_536
    one = [TargetLayer(("q_proj",), (12, 8))]
    assert length(one) == 4 * (12 + 8)
    frozen = UniRes().init_frozen_all(one)
    assert sorted(np.ravel(frozen.own["q_proj"]["b"])) == list(range(48, 80))


@pytest.mark.long
def test_a_quantised_base_is_adapted_as_its_merged_weights_are():
    config = UniRes(rank=4, init_bound=0.4, kernel_rank=2)
    adapter, model, _, v, tokens_BL = small_llama.made("unires", config, ORDER)
    v = {**v, "params": quantize.quantize(v["params"], "int8", block=16)}
    found = small_llama.adapted(adapter, model, v, tokens_BL)
    expected = small_llama.plain(model, jax.jit(adapter.merge)(v), tokens_BL)
    within(np.abs(found - expected).max(), 2e-5 * np.ptp(expected))
    base = small_llama.plain(model, quantize.dequantize(v["params"]), tokens_BL)
    assert np.abs(found - base).max() > 1e-2 * np.ptp(expected)


def test_peft_gets_a_lora_of_the_factors():
    """tests/tera_jax/io/test_peft.py has PEFT's logits with it."""
    adapter = make("unires", SMALL, llama(16, 8, 24, 2))
    index, counts = by_hand(adapter.layers, 3, 500, 42)
    random = np.random.default_rng(0)
    theta, u = random.standard_normal(500), random.standard_normal((2, 3))
    d = {"shared": {"unires": {"theta": jnp.asarray(theta, jnp.float32)}}}
    for layer in adapter.layers:
        put(d, (*layer.path, "unires"), {"gates": jnp.asarray(u, jnp.float32)})
    variables = {"params": {}, "frozen": adapter.init_frozen({}), "d": d}
    config, arrays = peft.layers.files(*peft.plain(adapter, variables, whole=False))
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 3, 3.0)
    assert len(arrays) == 2 * 2 * len(ORDER)
    entries = theta / np.sqrt(counts)
    for block, name in (("self_attn", "q_proj"), ("mlp", "down_proj")):
        key = f"base_model.model.model.layers.1.{block}.{name}.lora_{{}}.weight"
        factors = (entries[index[1, name, "a"]] * (1 + 0.3 * u[1]), entries[index[1, name, "b"]])
        for side, expected in zip("AB", factors, strict=True):
            error = np.abs(arrays[key.format(side)].T - expected).max()
            within(error, 1e-6 * np.abs(expected).max())


def test_what_scales_the_kernel_is_refused_for_peft_before_training():
    with pytest.raises(ValueError, match="kernel_rank 1 of unires scales the base's weights"):
        peft.require("unires", UniRes(rank=2, kernel_rank=1))
    config = default("unires")
    config.model.path, config.data.path, config.export = "some/model", "r.json", ("peft",)
    require_possible(parse(config))
    config.method.kernel_rank = 2
    with pytest.raises(ValueError, match="kernel_rank 2 of unires"):
        require_possible(parse(config))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "rank 0"),
        ({"length": 0}, "length 0"),
        ({"init_bound": 0.0}, r"init_bound 0\.0"),
        ({"gate_scale": 0.0}, r"gate_scale 0\.0"),
        ({"kernel_gain": -1.0}, r"kernel_gain -1\.0"),
        ({"kernel_rank": -1}, "kernel_rank -1"),
        ({"kernel_rank": 5}, "kernel_rank 5, but the rank is 4"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        UniRes(**fields)


@pytest.mark.parametrize(
    ("fields", "layers", "message"),
    [
        ({"length": 36_000}, LLAMA_2_7B, "length 36000.*have 65536 numbers; choose at least 65537"),
        ({"rank": 9}, [TargetLayer(("q_proj",), (12, 8))], r"rank 9, but the kernel \(12, 8\)"),
        ({}, [TargetLayer(("query",), (12, 8))], r"none of the target layers \['query'\] is in"),
        ({"writers": ("q_proj",)}, SMOLLM2, "'layers/self_attn/q_proj' is in readers and in"),
    ],
)
def test_what_does_not_fit_the_layers_is_refused(fields, layers, message):
    with pytest.raises(ValueError, match=message):
        bind(UniRes(**fields), layers)
    bind(UniRes(length=65_537), LLAMA_2_7B)
