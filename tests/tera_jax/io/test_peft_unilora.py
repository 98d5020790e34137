"""PEFT's Uni-LoRA adapters: targets by pattern, and indices that were saved."""

import json

import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from tera_jax import load_adapter
from tera_jax.llama import load_pretrained

CONFIG = {"r": 4, "theta_d_length": 100}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    path = tmp_path_factory.mktemp("base")
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


def saved(base, path, **fields):
    """The directory that PEFT writes, and the base's params."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    peft.get_peft_model(model, peft.UniLoraConfig(**CONFIG, **fields)).save_pretrained(path)
    return path, load_pretrained(base)[1]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj", "mlp.up_proj"], {"q_proj", "up_proj"}),
        (r".*\.(k|down)_proj", {"k_proj", "down_proj"}),
        ("all-linear", {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}),
    ],
)
def test_targets_are_read_as_peft_reads_them(base, tmp_path, targets, expected):
    path, params = saved(base, tmp_path / "a", target_modules=targets, save_indices=True)
    adapter, variables = load_adapter(path, params)  # which compares all indices
    assert {layer.path[-1] for layer in adapter.layers} == expected
    assert all(layer.stack == (2,) for layer in adapter.layers)
    theta = variables["d"]["shared"]["unilora"]["theta"]
    written = load_file(path / "adapter_model.safetensors")["base_model.unilora_theta_d"]
    assert theta.dtype == jnp.float32
    assert np.array_equal(theta, written)


def test_other_indices_and_other_arrays_are_refused(base, tmp_path):
    path, params = saved(base, tmp_path / "a", target_modules=["q_proj"], save_indices=True)
    arrays = load_file(path / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.self_attn.q_proj.unilora_indices_A"
    changed = arrays[name].copy()
    changed[2, 3] += 1
    for message, new in (
        (f"{name} in .* is not what the seed 42 gives", {name: changed}),
        ("has an array 'extra' that unilora does not have", {"extra": changed}),
        (r"has \(3,\) for base_model\.unilora_theta_d", {"base_model.unilora_theta_d": np.ones(3)}),
    ):
        save_file({**arrays, **new}, path / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=message):
            load_adapter(path, params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers_to_transform": [1]}, r"sets layers_to_transform to \[1\]"),
        ({"bias": "all"}, "sets bias to 'all'"),
        ({"target_modules": ["lm_head"]}, "adapts lm_head, which is this base's embedding"),
        ({"target_modules": ["other"]}, "which this base does not have"),
        ({"proj_seed": 43}, "is not what the seed 43 gives"),
    ],
)
def test_what_is_not_read_is_refused_by_name(base, tmp_path, change, message):
    path, params = saved(base, tmp_path / "a", target_modules=["q_proj"], save_indices=True)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=message):
        load_adapter(path, params)
