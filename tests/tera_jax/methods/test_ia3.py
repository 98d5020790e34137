"""(IA)³ beside PEFT's: one layer, and a whole decoder with biases, in float64."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from tera_jax import adapt
from tera_jax.llama import load_pretrained
from tera_jax.methods import TargetLayer
from tera_jax.methods.ia3 import IA3
from tests import float64
from tests.margins import within
from tests.tera_jax.methods.one_layer import on_layer
from train.params import count

TOKENS = np.random.default_rng(0).integers(3, 96, (3, 9))


@pytest.fixture(autouse=True)
def in_float64():
    with float64.everywhere():
        yield


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.abs(a - b).max() / np.abs(b).max()


def array(tensor):
    return jnp.asarray(tensor.detach().numpy())


@pytest.mark.parametrize("feedforward", [(), ("q",)])
@pytest.mark.parametrize("shape", [(24, 10), (10, 24)])
def test_outputs_gradients_and_merged_weights_are_those_of_peft(feedforward, shape):
    torch.manual_seed(0)
    base = torch.nn.ModuleDict({"q": torch.nn.Linear(*shape)})
    kernel, bias = array(base["q"].weight).T, array(base["q"].bias)
    config = peft.IA3Config(target_modules=["q"], feedforward_modules=list(feedforward))
    layer = peft.get_peft_model(base, config).base_model.model["q"]
    method = on_layer(IA3(feedforward=feedforward), (TargetLayer(("q",), shape),))
    parameter = layer.ia3_l["default"]
    initial = method.init_d(jax.random.key(0), kernel, {})["l"]
    assert np.array_equal(initial, parameter.detach().numpy().ravel())
    parameter.data += torch.randn_like(parameter)
    d = {"l": array(parameter).ravel()}
    x, weight = torch.randn(3, 4, shape[0]), torch.randn(3, 4, shape[1])
    y = layer(x)
    (weight * y).sum().backward()

    def loss(d):
        merged = method.method.merge_bias({}, d, bias, method.layer)
        ours = method.apply({}, d, kernel, array(x)) + merged.reshape(1, 1, -1)
        return jnp.sum(array(weight) * ours), (ours, merged)

    grads, (ours, merged_bias) = jax.jit(jax.grad(loss, has_aux=True))(d)
    within(relative(ours, y.detach()), 1e-13)
    within(relative(grads["l"], parameter.grad.ravel()), 1e-13)
    unscaled = x.numpy() @ np.asarray(kernel) + np.asarray(bias)
    assert relative(ours, unscaled) > 0.1
    layer.merge()
    within(relative(method.merge({}, d, kernel).T, layer.get_base_layer().weight.detach()), 1e-13)
    within(relative(merged_bias, layer.get_base_layer().bias.detach()), 1e-13)
    assert np.array_equal(merged_bias, bias) == bool(feedforward)


def decoder(family, path):
    """A Llama without biases or a Qwen2 with, here and in ``transformers``."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",
        initializer_range=0.15,
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter += 0.2 * torch.randn_like(parameter)
        model.save_pretrained(path)
        arrays = load_file(path / "model.safetensors")
        arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
        save_file(arrays, path / "model.safetensors", metadata={"format": "pt"})
        model.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    return model, *load_pretrained(path, dtype=jnp.float64)


UP = {"target_modules": ["up_proj"], "feedforward_modules": ["up_proj"]}


@pytest.mark.parametrize(
    ("family", "given", "targets"),
    [
        ("Llama", {}, None),
        ("Qwen2", {}, ("q_proj", "v_proj", "down_proj")),
        ("Llama", UP, ("up_proj",)),
    ],
)
def test_logits_and_gradients_of_a_decoder_are_those_of_peft(family, given, targets, tmp_path):
    base, model, params = decoder(family, tmp_path / "base")
    theirs = peft.get_peft_model(base, peft.IA3Config(task_type="CAUSAL_LM", **given)).eval()
    torch.manual_seed(1)
    trained = {n: p for n, p in theirs.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        parameter.data += 0.3 * torch.randn_like(parameter)
    config = IA3(feedforward=("up_proj", "down_proj"))
    tokens_BL = jnp.asarray(TOKENS, jnp.int32)
    adapter = adapt(model, tokens_BL, method="ia3", config=config, targets=targets)

    def stacked(layer, value):
        """The layer's arrays in PEFT, stacked."""
        end = f"{'.'.join(layer.path[1:])}.ia3_l.default"
        found = [value(trained[f"base_model.model.model.layers.{i}.{end}"]) for i in range(2)]
        return jnp.stack([array(each).ravel() for each in found])

    def get(tree, layer):
        for name in (*layer.path, "ia3", "l"):
            tree = tree[name]
        return tree

    d = jax.eval_shape(adapter.init_d, params, {})
    leaves = [stacked(layer, lambda p: p) for layer in adapter.layers]
    assert sum(leaf.size for leaf in leaves) == sum(p.numel() for p in trained.values())
    for layer, leaf in zip(adapter.layers, leaves, strict=True):
        assert get(d, layer).shape == leaf.shape
    by_path = dict(zip((layer.path for layer in adapter.layers), leaves, strict=True))
    d = jax.tree.map_with_path(lambda path, _: by_path[tuple(k.key for k in path[:-2])], d)
    weight_BLV = np.random.default_rng(1).normal(size=(*TOKENS.shape, 96))

    def weighted(d):
        variables = {"params": params, "frozen": {}, "d": d}
        logits_BLV, _ = adapter.apply(model, variables, tokens_BL)
        return jnp.sum(logits_BLV * weight_BLV), logits_BLV

    found, ours = jax.jit(jax.grad(weighted, has_aux=True))(d)
    logits = theirs(torch.tensor(TOKENS)).logits
    (logits * torch.tensor(weight_BLV)).sum().backward()
    within(relative(ours, logits.detach()), 1e-12)
    for layer in adapter.layers:
        expected = stacked(layer, lambda p: p.grad)
        assert np.abs(expected).max() > 1e-3
        within(relative(get(found, layer), expected), 1e-12)
    merged = adapter.merge({"params": params, "frozen": {}, "d": d})
    plain, _ = jax.jit(model.apply)({"params": merged}, tokens_BL)
    within(relative(plain, logits.detach()), 1e-12)
    untouched, _ = jax.jit(model.apply)({"params": params}, tokens_BL)
    assert relative(untouched, logits.detach()) > 0.01


def test_the_default_counts_keys_values_and_the_inputs_of_down(capsys):
    count.main(["--model=llama-2-7b", "--method=ia3", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["trained"] == 32 * (4096 + 4096 + 11008)
    assert set(found["max_rank"]) == {
        "layers/self_attn/k_proj",
        "layers/self_attn/v_proj",
        "layers/mlp/down_proj",
    }


def test_a_feedforward_layer_is_named_by_a_pattern():
    layer = TargetLayer(("layers", "mlp", "down_proj"), (48, 32))
    kernel = jnp.ones((48, 32))
    for patterns, size in [(("down_proj",), 48), (("mlp/*",), 48), (("up_proj",), 32), ((), 32)]:
        d = on_layer(IA3(feedforward=patterns), (layer,)).init_d(jax.random.key(0), kernel, {})
        assert d["l"].shape == (size,)
