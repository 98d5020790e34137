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
        (LLAMA | {"model_type": "gpt2"}, "model_type='gpt2', which is not supported; choose"),
        ({"vocab_size": 3}, "model_type=None, which is not supported"),
        (LLAMA | {"hidden_act": "gelu"}, 'sets hidden_act to .gelu., not "silu"; choose'),
        (QWEN3 | {"mlp_bias": True}, "sets mlp_bias to True, not false or null; choose another"),
        (QWEN3 | {"attention_bias": True}, "sets attention_bias to True"),
        (LLAMA | {"attention_dropout": 1.0}, "attention_dropout to 1.0, .* at least 0 and below 1"),
        (LLAMA | {"pretraining_tp": 2}, "sets pretraining_tp to 2, not 1"),
        (
            LLAMA | {"quantization_config": {"bits": 4}},
            "quantization_config to .*, not null; choose the",
        ),
        (
            LLAMA | {"auto_map": {"AutoModel": "x.Y"}},
            "auto_map to .*code of a checkpoint is never run",
        ),
        (LLAMA | {"partial_rotary_factor": 0.5}, "sets partial_rotary_factor to 0.5"),
        (LLAMA | {"logit_scale": 2.0}, r"unknown key 'logit_scale' \(2.0\).*can be removed"),
        (LLAMA | {"sliding_window": 8}, "sliding_window=8 has no meaning in a llama model"),
        (QWEN3 | {"use_sliding_window": True}, "use_sliding_window to True, .*set it to false"),
        (QWEN3 | {"layer_types": ["sliding_attention"] * 2}, "all layers must be full_attention"),
        (
            MISTRAL | {"sliding_window": 8, "layer_types": ["full_attention"] * 2},
            "all layers must be sliding_attention",
        ),
        (LLAMA | {"rope_scaling": {"type": "ntk", "factor": 2.0}}, "rope_scaling=.*ntk"),
        (LLAMA | {"model_type": "mixtral"}, r"mixtral.*\(mixtures of experts are not read\)"),
        (LLAMA | {"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters=.*yarn.* choose"),
        (LLAMA | {"rope_scaling": {"type": "llama3", "factor": 2.0}}, "exactly the keys"),
        (LLAMA | {"rope_parameters": {"partial_rotary_factor": 0.5}}, "exactly the keys"),
        (LLAMA | {"rope_theta": 5.0, "rope_parameters": {"rope_theta": 6.0}}, "disagree; keep"),
        (
            LLAMA | {"rope_parameters": {}, "rope_scaling": {"type": "llama3", **SCALING}},
            "disagree; keep",
        ),
        (
            {k: v for k, v in MISTRAL.items() if k != "sliding_window"},
            "config.json lacks sliding_window, a whole number or null",
        ),
        (LLAMA | {"use_mrope": True}, "sets use_mrope to True, not false or null; choose another"),
        (LLAMA | {"rope_interleaved": True}, "sets rope_interleaved to True"),
        (LLAMA | {"is_llama_config": False}, "sets is_llama_config to False"),
        (LLAMA | {"rms_norm_eps": 0.0}, "sets rms_norm_eps to 0.0, not a number above 0 and"),
        (LLAMA | {"rms_norm_eps": -1e-5}, "sets rms_norm_eps to -1e-05"),
        (LLAMA | {"rms_norm_eps": float("nan")}, "sets rms_norm_eps to nan"),
        (LLAMA | {"rms_norm_eps": "1e-5"}, "sets rms_norm_eps to '1e-5', not a number"),
        (LLAMA | {"rope_theta": 0}, "sets rope_theta to 0, not a number or null of at least 1"),
        (LLAMA | {"rope_parameters": {"rope_theta": -1.0}}, "sets rope_parameters.rope_theta to"),
        (LLAMA | {"rope_scaling": {"type": ["llama3"]}}, "sets rope_scaling.type to"),
        (
            LLAMA | {"rope_scaling": {"type": "llama3", **SCALING, "factor": 0.5}},
            "sets rope_scaling.factor to 0.5, not a number of at least 1",
        ),
        (LLAMA | {"num_hidden_layers": 2.0}, "sets num_hidden_layers to 2.0, not a whole number"),
        (LLAMA | {"num_hidden_layers": True}, "sets num_hidden_layers to True"),
        (LLAMA | {"hidden_size": -64}, "sets hidden_size to -64"),
        (LLAMA | {"hidden_size": [64]}, r"sets hidden_size to \[64\], not a whole number"),
        (LLAMA | {"num_key_value_heads": 0}, "sets num_key_value_heads to 0"),
        (LLAMA | {"max_position_embeddings": 2**31}, "sets max_position_embeddings to 2147483648"),
        (LLAMA | {"eos_token_id": 128}, "eos_token_id=128 must be at least 0 and below vocab_size"),
        (LLAMA | {"eos_token_id": [2, 500]}, "eos_token_id=500 must be .* below vocab_size=128"),
        (LLAMA | {"eos_token_id": -1}, "sets eos_token_id to -1"),
        (LLAMA | {"bos_token_id": 1.0}, "sets bos_token_id to 1.0, not a whole number or null"),
        (LLAMA | {"tie_word_embeddings": 1}, "sets tie_word_embeddings to 1, not true or false"),
        (QWEN3 | {"layer_types": ["full_attention"]}, "1 layer_types for num_hidden_layers=2"),
        (
            {k: v for k, v in MISTRAL.items() if k not in ("sliding_window", "vocab_size")},
            "config.json lacks vocab_size, a whole number",
        ),
        (LLAMA | {"num_attention_heads": 5}, "num_attention_heads=5 does not divide hidden_size"),
        (LLAMA | {"num_key_value_heads": 3}, "num_kv_heads=3 must divide num_heads=4"),
        (QWEN3 | {"head_dim": 31}, "head_dim=31 must be even"),
        (QWEN3 | {"vocab_size": 0}, "sets vocab_size to 0, not a whole number of at least 1"),
        (MISTRAL | {"sliding_window": 0}, "sets sliding_window to 0, not .* of at least 1"),
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


_PUBLISHED = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rope_theta": 10000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1",
    "use_cache": True,
}


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("llama", {"is_llama_config": True, "rope_interleaved": False, "pretraining_tp": 1}),
        ("llama", {"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}}),
        ("llama", {"_name_or_path": "meta-llama/Llama-2-7b-hf", "rope_scaling": None}),
        ("llama", {"max_sequence_length": 2048, "pad_token_id": -1}),
        ("llama", {"mlp_bias": False, "attention_bias": False, "head_dim": 16}),
        ("llama", {"rope_scaling": {"rope_type": "llama3", **SCALING}, "eos_token_id": [1, 8, 9]}),
        ("llama", {"attention_dropout": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.0}),
        ("llama", {"model_max_length": 4096, "tokenizer_class": "LlamaTokenizer"}),
        ("llama", {"_flash_attn_2_enabled": True, "unsloth_version": "2024.9", "dtype": "float16"}),
        ("mistral", {"sliding_window": 4096}),
        ("mistral", {"sliding_window": None, "head_dim": 16}),
        ("qwen2", {"max_window_layers": 24, "sliding_window": 32768, "use_mrope": False}),
        ("qwen2", {"use_sliding_window": False, "max_window_layers": 28, "rms_norm_eps": 1e-6}),
        ("qwen3", {"attention_bias": False, "head_dim": 16, "layer_types": ["full_attention"] * 2}),
    ],
)
def test_published_keys_are_read_and_mean_what_they_mean_in_transformers(kind, keys, tmp_path):
    raw = LLAMA | _PUBLISHED | {"model_type": kind} | keys
    config = LlamaConfig.from_hf(raw)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.rope_theta == theirs.rope_parameters["rope_theta"]
    assert config.head_dim == (getattr(theirs, "head_dim", None) or 16)
    eos = theirs.eos_token_id
    assert config.eos_token_id == (tuple(eos) if isinstance(eos, list) else eos)
    assert (config.rope_scaling is None) == (theirs.rope_parameters["rope_type"] == "default")
    assert config.sliding_window == (theirs.sliding_window if kind == "mistral" else None)


def test_the_order_of_keys_does_not_matter():
    raw = LLAMA | _PUBLISHED
    assert LlamaConfig.from_hf(dict(reversed(raw.items()))) == LlamaConfig.from_hf(raw)


def test_training_dropouts_do_not_change_the_model():
    raw = LLAMA | _PUBLISHED
    assert LlamaConfig.from_hf(raw | {"attention_dropout": 0.1}) == LlamaConfig.from_hf(raw)
