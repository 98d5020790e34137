"""Targets: which layers a pattern names, and what is told of it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import peft
import pytest
import transformers

from tera_jax import adapt
from tera_jax.adapters.targets import choose, matches, model_layers
from tera_jax.llama import Llama, LlamaConfig
from tests.parts import SMALL

TOKENS = jax.ShapeDtypeStruct((1, 2), jnp.int32)


def layers(targets, method="lora", **changes):
    model = Llama(LlamaConfig.from_hf({**SMALL, **changes}))
    return adapt(model, TOKENS, method=method, targets=targets).layers


@pytest.mark.parametrize("tied", [False, True])
def test_all_linear_is_what_it_is_to_peft(tied):
    found = {layer.path[-1] for layer in layers(["all-linear"], tie_word_embeddings=tied)}
    config = transformers.Qwen2Config(**{**SMALL, "tie_word_embeddings": tied})
    config = peft.LoraConfig(target_modules="all-linear"), transformers.Qwen2ForCausalLM(config)
    theirs = peft.get_peft_model(config[1], config[0]).targeted_module_names
    assert found == {name.rpartition(".")[2] for name in theirs}
    assert len(found) == 7
    assert "lm_head" not in found


def test_it_may_be_one_text_and_stand_beside_the_head():
    assert layers("all-linear") == layers(["all-linear"]) == layers(["*_proj"])
    assert {layer.name for layer in layers(["all-linear", "lm_head"])} - {
        layer.name for layer in layers(["all-linear"])
    } == {"lm_head"}
    found = model_layers(Llama(LlamaConfig.from_hf(SMALL)), TOKENS)
    with pytest.raises(ValueError, match="target 'all-linear' names no norm"):
        choose(found.norm, ["all-linear"], "norm", found)


def test_any_models_linear_layers_but_a_head_at_its_top():
    class Part(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(16, name="head")(nn.relu(nn.Dense(16, name="fc")(x)))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(12, name="head")(Part(name="part")(x))

    adapter = adapt(Net(), jnp.ones((1, 16)), method="lora", targets="all-linear")
    assert [layer.name for layer in adapter.layers] == ["part/fc", "part/head"]


def test_what_each_target_names_is_told_with_numbers_and_shapes():
    targets = ["all-linear", "self_attn/[qo]_proj", "v_proj"]
    assert matches(layers(targets), targets) == {
        "all-linear": "2 of 48x32, 4 of 32x48, 4 of 32x16, 4 of 32x32",
        "self_attn/[qo]_proj": "4 of 32x32",
        "v_proj": "2 of 32x16",
    }
    assert matches(layers(["q_proj"], method="prompt"), ["q_proj"]) == {}
