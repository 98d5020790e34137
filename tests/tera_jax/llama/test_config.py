import dataclasses
import json

import pytest
import transformers

from tera_jax.llama import LlamaConfig
from tera_jax.llama.rope import Llama3Scaling

LLAMA = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
}
QWEN3 = LLAMA | {
    "model_type": "qwen3",
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
}
MISTRAL = QWEN3 | {"model_type": "mistral", "sliding_window": None}
SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_defaults_of_a_first_generation_llama():
    config = LlamaConfig.from_hf(LLAMA | {"max_sequence_length": 2048, "pad_token_id": 0})
    assert (config.num_kv_heads, config.head_dim, config.rope_theta) == (4, 16, 10000.0)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 0)
    assert not config.tie_word_embeddings


@pytest.mark.parametrize("raw", [LLAMA, QWEN3, MISTRAL])
def test_defaults_are_those_of_transformers(raw, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(raw))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path).to_dict()
    assert LlamaConfig.from_hf(theirs) == LlamaConfig.from_hf(raw)
    assert LlamaConfig.from_hf(theirs | {"vocab_size": 129}) != LlamaConfig.from_hf(raw)


@pytest.mark.parametrize("kind", ["rope_type", "type"])
def test_old_and_new_rope_keys_mean_the_same(kind):
    scaling = {kind: "llama3", **SCALING}
    old = LlamaConfig.from_hf(LLAMA | {"rope_theta": 5e5, "rope_scaling": scaling})
    new = LlamaConfig.from_hf(LLAMA | {"rope_parameters": scaling | {"rope_theta": 5e5}})
    assert old == new
    assert (old.rope_theta, old.rope_scaling) == (5e5, Llama3Scaling(**SCALING))
    assert LlamaConfig.from_hf(LLAMA | {"rope_theta": 5e5}).rope_scaling is None


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig.from_hf(LLAMA),
        LlamaConfig.from_hf(LLAMA | {"rope_scaling": {"type": "llama3", **SCALING}}),
        LlamaConfig.from_hf(LLAMA | {"eos_token_id": [2, 5], "tie_word_embeddings": True}),
        LlamaConfig.from_hf(QWEN3),
        LlamaConfig.from_hf(QWEN3 | {"model_type": "qwen2"}),
        LlamaConfig.from_hf(MISTRAL | {"sliding_window": 7}),
    ],
    ids=lambda config: config.model_type,
)
def test_round_trip_and_transformers_reads_the_same(config, tmp_path):
    raw = config.to_hf()
    assert LlamaConfig.from_hf(raw) == config
    (tmp_path / "config.json").write_text(json.dumps(raw))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(theirs).__name__.lower() == f"{config.model_type}config"
    assert LlamaConfig.from_hf(theirs.to_dict()) == config
    assert theirs.rope_parameters["rope_theta"] == config.rope_theta


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (LLAMA | {"model_type": "gemma"}, "model_type='gemma' is not supported; choose"),
        ({"vocab_size": 3}, "model_type=None is not supported"),
        (LLAMA | {"hidden_act": "gelu"}, "hidden_act='gelu' is not supported, only 'silu'"),
        (LLAMA | {"mlp_bias": True}, "mlp_bias=True is not supported"),
        (LLAMA | {"attention_bias": True}, "attention_bias=True is not supported"),
        (LLAMA | {"attention_dropout": 0.1}, "attention_dropout=0.1 is not supported"),
        (LLAMA | {"pretraining_tp": 2}, "pretraining_tp=2 is not supported"),
        (LLAMA | {"quantization_config": {"bits": 4}}, "quantization_config=.* not supported"),
        (LLAMA | {"auto_map": {"AutoModel": "x.Y"}}, "auto_map=.* is not supported"),
        (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        (LLAMA | {"logit_scale": 2.0}, "logit_scale=2.0 is unknown .* remove it"),
        (LLAMA | {"sliding_window": 8}, "sliding_window=8 has no meaning in a llama model"),
        (QWEN3 | {"use_sliding_window": True}, "use_sliding_window=True is not supported"),
        (QWEN3 | {"layer_types": ["sliding_attention"] * 2}, "all layers must be full_attention"),
        (
            MISTRAL | {"sliding_window": 8, "layer_types": ["full_attention"] * 2},
            "all layers must be sliding_attention",
        ),
        (LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling=.*linear"),
        (LLAMA | {"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters=.*yarn.* choose"),
        (LLAMA | {"rope_scaling": {"type": "llama3", "factor": 2.0}}, "exactly the keys"),
        (LLAMA | {"rope_parameters": {"partial_rotary_factor": 0.5}}, "exactly the keys"),
        (LLAMA | {"rope_theta": 5.0, "rope_parameters": {"rope_theta": 6.0}}, "disagree; keep"),
        (
            LLAMA | {"rope_parameters": {}, "rope_scaling": {"type": "llama3", **SCALING}},
            "disagree; keep",
        ),
        (
            {k: v for k, v in MISTRAL.items() if k not in ("sliding_window", "vocab_size")},
            "mistral model lacks sliding_window, vocab_size; add it",
        ),
        (LLAMA | {"num_attention_heads": 5}, "num_attention_heads=5 does not divide hidden_size"),
        (LLAMA | {"num_key_value_heads": 3}, "num_kv_heads=3 must divide num_heads=4"),
        (QWEN3 | {"head_dim": 31}, "head_dim=31 must be even"),
        (QWEN3 | {"vocab_size": 0}, "vocab_size must be at least 1, not 0"),
        (MISTRAL | {"sliding_window": 0}, "sliding_window=0 must be at least 1"),
        (
            LLAMA | {"rope_scaling": {"type": "llama3", **SCALING, "high_freq_factor": 1.0}},
            "high_freq_factor > low_freq_factor",
        ),
    ],
)
def test_refuses(raw, message):
    with pytest.raises(ValueError, match=message):
        LlamaConfig.from_hf(raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_bias": True}, "has attention_bias=False, not True; choose another model_type"),
        ({"qk_norm": True}, "has qk_norm=False, not True"),
        ({"sliding_window": 4}, "cannot say sliding_window=4; use model_type='mistral'"),
    ],
)
def test_refuses_to_write_what_no_model_type_has(change, message):
    config = dataclasses.replace(LlamaConfig.from_hf(LLAMA), **change)
    with pytest.raises(ValueError, match=message):
        config.to_hf()
