"""Uni-LoRA beside PEFT's: indices, logits and gradients; its vector under scan; its counts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from tera_jax import adapt
from tera_jax.adapters.targets import get, put
from tera_jax.llama import load_pretrained
from tera_jax.methods import TargetLayer
from tera_jax.methods.base import FrozenOfAll
from tera_jax.methods.unilora import UniLoRA, draw_indices, one_by_one
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.adapters import small_llama
from train.params import count

ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
ALL = (*ATTENTION, *MLP)
TOKENS = np.random.default_rng(0).integers(3, 96, (3, 9))
CONFIG = UniLoRA(rank=3, length=70, init_bound=0.4, seed=5)


def peft_indices(total, length, seed):
    return peft.tuners.unilora.UniLoraModel.generate_index(total, length, seed).numpy()


@pytest.mark.parametrize("total", [12, 999, 1000, 70_001])
@pytest.mark.parametrize("length", [1, 10, 257])
def test_indices_are_those_of_peft_and_balanced(total, length):
    found = draw_indices(total, length, 42)
    assert found.dtype == np.int32
    assert np.array_equal(found, peft_indices(total, length, 42))
    assert np.ptp(np.bincount(found, minlength=length)) <= 1
    assert length == 1 or not np.array_equal(found, peft_indices(total, length, 43))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A random Llama of transformers."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",
        initializer_range=0.15,
    )
    path = tmp_path_factory.mktemp("base")
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


def theirs(path, targets):
    base = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(path),
        dtype=torch.get_default_dtype(),
        attn_implementation="eager",
    )
    arrays = load_file(path / "model.safetensors")
    base.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    config = peft.UniLoraConfig(
        r=CONFIG.rank,
        theta_d_length=CONFIG.length,
        init_theta_d_bound=CONFIG.init_bound,
        proj_seed=CONFIG.seed,
        target_modules=list(targets),
    )
    return peft.get_peft_model(base, config).eval()


def ours(path, targets):
    model, params = load_pretrained(path, dtype=jnp.asarray(1.0).dtype)
    adapter = adapt(
        model, jnp.ones((1, 2), jnp.int32), method="unilora", config=CONFIG, targets=targets
    )
    return adapter, model, params, jax.jit(adapter.init_frozen)(params)


@pytest.mark.parametrize("targets", [ALL, ("v_proj", "q_proj"), ("down_proj", "o_proj")])
def test_every_layer_has_the_indices_and_scales_of_pefts(path, targets):
    modules = theirs(path, targets).base_model.model.model.layers
    _, _, _, frozen = ours(path, targets)
    counts = np.asarray(frozen["shared"]["unilora"]["counts"])
    seen = []
    for name in targets:
        block = "mlp" if name in MLP else "self_attn"
        own = get(frozen, ("layers", block, name, "unilora"))
        for layer, module in enumerate(modules):
            their = getattr(getattr(module, block), name)
            for side, part in (("a", "A"), ("b", "B")):
                index = np.asarray(own[side][layer]).T
                indices = getattr(their, f"unilora_indices_{part}")["default"]
                scales = getattr(their, f"unilora_scales_{part}")["default"]
                assert np.array_equal(index, indices.numpy())
                np.testing.assert_allclose(1 / np.sqrt(counts[index]), scales, rtol=1e-6)
                seen.append(index.ravel())
    assert np.array_equal(np.bincount(np.concatenate(seen), minlength=CONFIG.length), counts)


def test_the_order_is_that_of_the_torch_modules_and_not_of_the_paths(path):
    adapter, *_ = ours(path, ALL)
    assert [layer.path[-1] for layer in adapter.layers] != list(ALL)
    order = [(place[0], layer.path[-1]) for layer, place in one_by_one(adapter.layers)]
    assert order == [(layer, name) for layer in range(3) for name in ALL]
    assert one_by_one(adapter.layers) == one_by_one(adapter.layers[::-1])
    other = TargetLayer(("a",), (3, 4)), TargetLayer(("b", "q_proj"), (3, 4), (2, 2))
    assert [place for _, place in one_by_one(other)] == [(), (0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.usefixtures("in_float64")
def test_logits_and_the_gradient_of_all_layers_are_those_of_peft(path):
    torch.manual_seed(1)
    reference = theirs(path, ALL)
    theta = reference.base_model.unilora_theta_d["default"]
    weight_BLV = np.random.default_rng(1).normal(size=(*TOKENS.shape, 96))
    expected = reference(torch.tensor(TOKENS)).logits
    (expected * torch.tensor(weight_BLV)).sum().backward()
    adapter, model, params, frozen = ours(path, ALL)

    def weighted(theta):
        d = {"shared": {"unilora": {"theta": theta}}}
        variables = {"params": params, "frozen": frozen, "d": d}
        logits_BLV, _ = adapter.apply(model, variables, jnp.asarray(TOKENS, jnp.int32))
        return jnp.sum(logits_BLV * weight_BLV), logits_BLV

    graded = jax.jit(jax.grad(weighted, has_aux=True))
    start = theta.detach().numpy()
    gradient, logits_BLV = graded(jnp.asarray(start))
    expected, theirs_gradient = expected.detach().numpy(), theta.grad.numpy()
    within(np.abs(logits_BLV - expected).max(), 1e-12 * np.ptp(expected))
    within(np.abs(gradient - theirs_gradient).max(), 1e-12 * np.abs(theirs_gradient).max())
    gradient, logits_BLV = graded(jnp.asarray(np.roll(start, 1)))
    assert np.abs(logits_BLV - expected).max() > 1e-3 * np.ptp(expected)
    assert np.abs(gradient - theirs_gradient).max() > 1e-2 * np.abs(theirs_gradient).max()


PATHS = [("layers", "self_attn", name) for name in ("q_proj", "v_proj")]


@pytest.mark.parametrize("variant", quick_only([*small_llama.VARIANTS][:1], small_llama.VARIANTS))
def test_layers_gather_under_scan_and_the_vector_gets_the_gradients_of_all(variant):
    """Against kernels that are made by hand, outside the model."""
    adapter, model, _, v, tokens_BL = small_llama.made(
        "unilora", UniLoRA(rank=3, length=50), ("q_proj", "v_proj"), variant
    )
    index = {path: get(v["frozen"], (*path, "unilora")) for path in PATHS}
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(list(index.values()))])
    scale = jnp.asarray(1 / np.sqrt(np.bincount(flat, minlength=50)), jnp.float32)

    def loss_by_hand(theta):
        params = jax.tree.map(lambda leaf: leaf, v["params"])
        for path in PATHS:
            a_NIR, b_NRO = ((theta * scale)[index[path][side]] for side in "ab")
            kernel_NIO = get(params, (*path, "kernel"))
            put(params, (*path, "kernel"), kernel_NIO + jnp.einsum("nir,nro->nio", a_NIR, b_NRO))
        return small_llama.loss(model.apply({"params": params}, tokens_BL)[0], tokens_BL)

    def loss(theta):
        d = {"shared": {"unilora": {"theta": theta}}}
        return small_llama.loss(adapter.apply(model, {**v, "d": d}, tokens_BL)[0], tokens_BL)

    theta = 3 * v["d"]["shared"]["unilora"]["theta"]
    value, found = jax.jit(jax.value_and_grad(loss))(theta)
    expected_value, expected = jax.jit(jax.value_and_grad(loss_by_hand))(theta)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    assert np.all(np.abs(found) > 0)
    assert abs(loss(0 * theta) - value) > 1e-3


def test_the_map_from_the_vector_to_the_matrices_keeps_lengths():
    layers = [TargetLayer((name,), shape, (3,)) for name, shape in (("q", (9, 7)), ("v", (8, 5)))]
    method = UniLoRA(rank=4, length=100)
    frozen = method.init_frozen_all(layers)
    theta = np.random.default_rng(0).normal(size=100)
    scaled = theta / np.sqrt(frozen.shared["counts"])
    entries = jnp.concatenate([jnp.ravel(index) for index in jax.tree.leaves(frozen.own)])
    assert entries.size == 3 * 4 * (9 + 7 + 8 + 5)
    assert np.sum(scaled[entries] ** 2) == pytest.approx(np.sum(theta**2), rel=1e-12)
    assert np.sum(theta[entries] ** 2) > 2 * np.sum(theta**2)


def test_the_vector_starts_uniform_and_away_from_zero():
    theta = UniLoRA(length=4000, init_bound=0.3).init_shared_d(jax.random.key(0), [])["theta"]
    assert theta.shape == (4000,)
    assert 0.29 < np.abs(theta).max() <= 0.3
    within(abs(np.std(theta) * np.sqrt(3) / 0.3 - 1), 0.03, of_draws=True)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ALL])
def test_exactly_the_vector_is_trained(targets, capsys):
    argv = ["--model=smollm2-135m", "--method=unilora", "--json", "--targets", *targets]
    for extra, trained in (([], 23_040), (["--set", "length=36840", "rank=8"], 36_840)):
        count.main([*argv, *extra])
        assert json.loads(capsys.readouterr().out)["trained"] == trained


def test_a_name_cannot_be_both_shared_and_a_layers_own(monkeypatch):
    adapter, model, _, v, tokens_BL = small_llama.made("unilora", CONFIG, ("q_proj", "v_proj"))
    drawn = adapter.method.init_frozen_all(adapter.layers)
    both = FrozenOfAll(drawn.own, {**drawn.shared, "a": drawn.shared["counts"]})
    monkeypatch.setattr(UniLoRA, "init_frozen_all", lambda *_: both)
    v = {**v, "frozen": adapter.init_frozen(v["params"])}
    with pytest.raises(ValueError, match=r"\['a'\] are both a layer's own frozen and shared"):
        adapter.apply(model, v, tokens_BL)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "rank 0"),
        ({"length": 0}, "length 0"),
        ({"init_bound": 0.0}, r"init_bound 0\.0"),
        ({"seed": -1}, "seed -1"),
        ({"dropout": 1.0}, r"dropout 1\.0"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        UniLoRA(**fields)


def test_a_rank_above_a_kernels_is_refused():
    with pytest.raises(ValueError, match=r"rank 9, but the kernel \(12, 8\)"):
        UniLoRA(rank=9).check([TargetLayer(("q",), (12, 8))])
