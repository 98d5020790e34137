"""VB-LoRA beside PEFT's: layers that share a bank, its start, counts and refusals.

tests/tera_jax/io/test_peft.py compares a whole decoder.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tera_jax import load_adapter
from tera_jax.methods import TargetLayer
from tera_jax.methods.vblora import VBLoRA, mixed
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.io.peft_models import made, our_base, write, write_bases
from tests.tera_jax.methods.one_layer import on_layer
from train.params import count

SHAPES = {"q": (12, 12), "v": (12, 8)}
BANK = "base_model.vblora_vector_bank"


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(("rank", "top_k"), quick_only([(3, 2)], [(3, 2), (1, 1), (2, 9)], names=2))
def test_outputs_gradients_and_merged_kernels_are_those_of_peft(rank, top_k):
    torch.manual_seed(0)
    base = torch.nn.ModuleDict({k: torch.nn.Linear(*v, bias=False) for k, v in SHAPES.items()})
    kernels = {k: jnp.asarray(base[k].weight.detach().numpy().T) for k in SHAPES}
    config = peft.VBLoRAConfig(
        r=rank, topk=top_k, num_vectors=9, vector_length=4, target_modules=["q", "v"]
    )
    model = peft.get_peft_model(base, config).base_model
    bank = model.vblora_vector_bank["default"]
    bank.data = torch.randn_like(bank)
    settings = {"rank": rank, "top_k": top_k, "num_vectors": 9, "vector_length": 4}
    for name, shape in SHAPES.items():
        layer, kernel = model.model[name], kernels[name]
        method = on_layer(VBLoRA(**settings), (TargetLayer((name,), shape),))
        trained = {
            "a": layer.vblora_logits_A["default"],
            "b": layer.vblora_logits_B["default"],
            "bank": bank,
        }
        d = {key: jnp.asarray(value.detach().numpy()) for key, value in trained.items()}
        like = method.init_d(jax.random.key(0), kernel, {})
        assert jax.tree.map(jnp.shape, d) == jax.tree.map(jnp.shape, like)
        x, weight = torch.randn(3, 4, shape[0]), torch.randn(3, 4, shape[1])
        bank.grad = None
        y = layer(x)
        (weight * y).sum().backward()
        grads, ours = graded(method, kernel, x, weight)(d)
        expected = y.detach().numpy()
        within(np.abs(ours - expected).max(), 1e-12 * np.ptp(expected))
        for key, parameter in trained.items():
            gradient = parameter.grad.numpy()
            within(np.abs(grads[key] - gradient).max(), 1e-12 * np.abs(grads["bank"]).max())
            assert gradient.any() == (top_k > 1 or key == "bank")  # one logit has weight 1
        _, other = graded(method, kernel, x, weight)({**d, "a": d["a"][..., ::-1]})
        assert np.abs(other - expected).max() > 1e-3 * np.ptp(expected)
        layer.merge()
        merged = layer.get_base_layer().weight.detach().numpy().T
        within(np.abs(method.merge({}, d, kernel) - merged).max(), 1e-12 * np.ptp(merged))


def graded(method, kernel, x, weight):
    """d -> the gradient of a weighted sum of the outputs, and the outputs."""

    def loss(d):
        ours = method.apply({}, d, kernel, jnp.asarray(x.numpy()))
        return jnp.sum(jnp.asarray(weight.numpy()) * ours), ours

    return jax.jit(jax.grad(loss, has_aux=True))


def test_a_mixture_has_the_largest_logits_alone():
    bank_VL = jnp.eye(5)
    logits = jnp.log(jnp.asarray([[1.0, 3.0, 0.5, 1.0 / 64, 0.25]]))
    np.testing.assert_allclose(mixed(logits, bank_VL, 2), [[0.25, 0.75, 0, 0, 0]], rtol=1e-6)
    gradient = jax.grad(lambda v: mixed(v, bank_VL, 2)[0, 1])(logits)
    assert np.array_equal(gradient != 0, [[True, True, False, False, False]])


def test_bank_and_logits_start_at_random():
    layer = TargetLayer(("q",), (64, 64))
    method = on_layer(VBLoRA(vector_length=16, bank_bound=0.3, logits_std=0.2), (layer,))
    d = method.init_d(jax.random.key(0), jnp.zeros((64, 64)), {})
    assert 0.29 < np.abs(d["bank"]).max() <= 0.3
    assert (d["a"].shape, d["b"].shape) == ((4, 4, 256), (4, 4, 256))
    for name in "ab":
        within(abs(np.std(d[name]) / 0.2 - 1), 0.05, of_draws=True)
    assert not np.array_equal(d["a"], d["b"])


def test_the_bank_is_counted_once_and_the_logits_for_each_part(capsys):
    count.main(["--model=llama-2-7b", "--method=vblora", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["trained"] == 256 * 256 + 2 * 32 * 2 * 4 * 16 * 256
    assert set(found["max_rank"].values()) == {4}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_bases(tmp_path_factory.mktemp("base"))[False]


@pytest.fixture
def saved(base, tmp_path):
    config = peft.VBLoRAConfig(num_vectors=9, vector_length=16, target_modules=["q_proj", "v_proj"])
    made(base, config, tmp_path / "a")
    return tmp_path / "a", our_base(base)[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"save_only_topk_weights": True}, "sets save_only_topk_weights to True, .* all of them"),
        ({"topk": 10}, "describes no adapter of this base: top_k 10, but the bank has 9"),
        ({"vector_length": 12}, "vector_length 12 does not divide both sides of the kernel"),
        ({"num_vectors": 8}, rf"{BANK} in .* has shape \(9, 16\), but .* make it \(8, 16\)"),
        ({"r": 3}, r"vblora_logits_A in .* has shape \(4, 2, 9\), but .* make it \(3, 2, 9\)"),
        ({"bias": "vblora_only"}, "sets bias to 'vblora_only'"),
        ({"init_logits_std": 0}, "sets init_logits_std to 0"),
        ({"target_modules": ["q_proj"]}, r"has arrays \[.*v_proj.* that vblora does not have"),
    ],
)
def test_what_is_not_read_is_refused_by_name(saved, fields, message):
    load_adapter(*saved)
    write(saved[0], **fields)
    with pytest.raises(ValueError, match=message):
        load_adapter(*saved)


def test_an_adapter_of_the_top_weights_alone_is_refused(base, tmp_path):
    config = peft.VBLoRAConfig(
        num_vectors=9, vector_length=16, target_modules=["q_proj"], save_only_topk_weights=True
    )
    made(base, config, tmp_path / "a")
    with pytest.raises(ValueError, match="sets save_only_topk_weights to True"):
        load_adapter(tmp_path / "a", our_base(base)[1])


def test_a_missing_bank_is_named(saved):
    file = saved[0] / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if k != BANK}, file)
    with pytest.raises(ValueError, match=f"lacks the array {BANK}"):
        load_adapter(*saved)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "rank 0"),
        ({"num_vectors": 0}, "num_vectors 0"),
        ({"vector_length": 0}, "vector_length 0"),
        ({"top_k": 0}, "top_k 0"),
        ({"top_k": 257}, "top_k 257, but the bank has 256"),
        ({"bank_bound": 0.0}, r"bank_bound 0\.0"),
        ({"logits_std": 0.0}, r"logits_std 0\.0"),
        ({"dropout": 1.0}, r"dropout 1\.0"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        VBLoRA(**fields)


def test_sides_that_the_length_does_not_divide_are_refused_with_a_remedy():
    layers = [TargetLayer(("q",), (576, 576)), TargetLayer(("v",), (576, 192))]
    VBLoRA(vector_length=64).check(layers)
    with pytest.raises(ValueError, match=r"256 does not divide .* choose a divisor of 192"):
        VBLoRA().check(layers)
