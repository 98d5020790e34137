"""The ``config.json`` of published models, as far as it says what the function is.

Each was compared with copies of the file, or of parts of it, in public repositories. Whole were
those of gemma-2-9b-it, gemma-3-1b, gemma-3-12b and 27b, Phi-3.5-mini, Phi-4-mini,
OLMo-2-1124-13B, granite-3.3-8b, SmolLM3-3B, Qwen2-72B (of which Qwen2.5-72B has the sizes) and
Mistral-Nemo-Base-2407. Of Gemma 1, gemma-2-2b and 27b, gemma-3-4b, Phi-3-mini, phi-4, OLMo-2-7B,
granite-3.1 and Qwen2.5-7B the sizes were there; token ids and keys that change no function are from
memory.
"""

_GEMMA = {
    "architectures": ["x"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "head_dim": 256,
    "initializer_range": 0.02,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.4",
    "use_cache": True,
}
_GEMMA_1 = _GEMMA | {
    "model_type": "gemma",
    "hidden_act": "gelu",
    "max_position_embeddings": 8192,
    "rope_theta": 10000.0,
    "vocab_size": 256000,
}
_GEMMA_2 = _GEMMA | {
    "model_type": "gemma2",
    "attn_logit_softcapping": 50.0,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 30.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
    "vocab_size": 256000,
}
_VISION = {"hidden_size": 1152, "model_type": "siglip_vision_model", "num_hidden_layers": 27}
_STRETCHED = {"factor": 8.0, "rope_type": "linear"}
_GEMMA_3 = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": _VISION,
}
_PHI = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
    "bos_token_id": 1,
    "embd_pdrop": 0.0,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "model_type": "phi3",
    "original_max_position_embeddings": 4096,
    "pad_token_id": 32000,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
}
_LONG = {"long_factor": [2.0] * 48, "short_factor": [1.1] * 48, "type": "longrope"}
"""Of a head of 96 entries; the factors themselves are others in each model."""
_OLMO = {
    "attention_bias": False,
    "eos_token_id": 100257,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "model_type": "olmo2",
    "pad_token_id": 100277,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
    "vocab_size": 100352,
}
_GRANITE = {
    "attention_bias": False,
    "attention_dropout": 0.1,
    "bos_token_id": 0,
    "embedding_multiplier": 12.0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "mlp_bias": False,
    "model_type": "granite",
    "pad_token_id": 0,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "vocab_size": 49155,
}
_QWEN = {
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "model_type": "qwen2",
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}


def _sizes(width, inner, layers, heads, kv_heads):
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


def _gemma_3(width, inner, layers, **more):
    text = {
        "hidden_size": width,
        "intermediate_size": inner,
        "model_type": "gemma3_text",
        "num_hidden_layers": layers,
        "rope_scaling": _STRETCHED,
        "sliding_window": 1024,
        **more,
    }
    return _GEMMA_3 | {"text_config": text}


_GEMMA_3_1B = _GEMMA | {
    "model_type": "gemma3_text",
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 32768,
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}
_MINI = _PHI | _sizes(3072, 8192, 32, 32, 32)
_2B = _GRANITE | {"attention_multiplier": 0.015625, "logits_scaling": 8.0}
PUBLISHED = {
    "gemma-2b": _GEMMA_1 | _sizes(2048, 16384, 18, 8, 1),
    "gemma-7b": _GEMMA_1 | _sizes(3072, 24576, 28, 16, 16),
    "gemma-2-2b": _GEMMA_2 | _sizes(2304, 9216, 26, 8, 4) | {"query_pre_attn_scalar": 256},
    "gemma-2-9b": _GEMMA_2 | _sizes(3584, 14336, 42, 16, 8) | {"query_pre_attn_scalar": 256},
    "gemma-2-27b": _GEMMA_2
    | _sizes(4608, 36864, 46, 32, 16)
    | {"query_pre_attn_scalar": 144, "head_dim": 128},
    "gemma-3-1b": _GEMMA_3_1B | _sizes(1152, 6912, 26, 4, 1),
    "gemma-3-4b": _gemma_3(2560, 10240, 34),
    "gemma-3-12b": _gemma_3(3840, 15360, 48, num_attention_heads=16, num_key_value_heads=8),
    "gemma-3-27b": _gemma_3(
        *(5376, 21504, 62),
        num_attention_heads=32,
        num_key_value_heads=16,
        head_dim=128,
        query_pre_attn_scalar=168,
    ),
    "Phi-3-mini-4k": _MINI
    | {"max_position_embeddings": 4096, "rope_scaling": None, "sliding_window": 2047},
    "Phi-3-mini-128k": _MINI
    | {"max_position_embeddings": 131072, "rope_scaling": _LONG, "sliding_window": 262144},
    "Phi-3.5-mini": _MINI
    | {"max_position_embeddings": 131072, "rope_scaling": _LONG, "sliding_window": 262144},
    "Phi-4-mini": _PHI
    | _sizes(3072, 8192, 32, 24, 8)
    | {
        "bos_token_id": 199999,
        "eos_token_id": 199999,
        "full_attn_mod": 1,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "pad_token_id": 199999,
        "partial_rotary_factor": 0.75,
        "rope_scaling": _LONG,
        "sliding_window": 262144,
        "tie_word_embeddings": True,
        "vocab_size": 200064,
    },
    "phi-4": _PHI
    | _sizes(5120, 17920, 40, 40, 10)
    | {
        "bos_token_id": 100257,
        "eos_token_id": 100265,
        "pad_token_id": 100349,
        "max_position_embeddings": 16384,
        "original_max_position_embeddings": 16384,
        "rope_scaling": None,
        "rope_theta": 250000,
        "sliding_window": None,
        "vocab_size": 100352,
    },
    "OLMo-2-7B": _OLMO | _sizes(4096, 11008, 32, 32, 32),
    "OLMo-2-13B": _OLMO | _sizes(5120, 13824, 40, 40, 40),
    "granite-3.1-2b": _2B
    | _sizes(2048, 8192, 40, 32, 8)
    | {"max_position_embeddings": 131072, "rope_theta": 5e6, "tie_word_embeddings": True},
    "granite-3.1-8b": _GRANITE
    | _sizes(4096, 12800, 40, 32, 8)
    | {
        "attention_multiplier": 0.0078125,
        "logits_scaling": 16.0,
        "max_position_embeddings": 131072,
        "rope_theta": 1e7,
        "tie_word_embeddings": True,
    },
    "granite-3.3-8b": _GRANITE
    | _sizes(4096, 12800, 40, 32, 8)
    | {
        "attention_dropout": 0.0,
        "attention_multiplier": 0.0078125,
        "logits_scaling": 16.0,
        "max_position_embeddings": 131072,
        "rope_theta": 1e7,
        "tie_word_embeddings": True,
        "vocab_size": 49159,
    },
    "SmolLM3-3B": _sizes(2048, 11008, 36, 16, 4)
    | {
        "attention_bias": False,
        "bos_token_id": 128000,
        "eos_token_id": 128012,
        "hidden_act": "silu",
        "layer_types": ["full_attention"] * 36,
        "max_position_embeddings": 65536,
        "max_window_layers": 28,
        "mlp_bias": False,
        "model_type": "smollm3",
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0] * 9,
        "pad_token_id": 128004,
        "pretraining_tp": 2,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 5e6,
        "sliding_window": None,
        "use_sliding_window": False,
        "vocab_size": 128256,
    },
    "Qwen2.5-7B": _QWEN
    | _sizes(3584, 18944, 28, 28, 4)
    | {
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "rms_norm_eps": 1e-6,
        "sliding_window": 131072,
    },
    "Qwen2.5-72B": _QWEN
    | _sizes(8192, 29568, 80, 64, 8)
    | {
        "eos_token_id": 151643,
        "max_position_embeddings": 131072,
        "max_window_layers": 80,
        "rms_norm_eps": 1e-5,
        "sliding_window": 131072,
    },
    "Mistral-Nemo": _sizes(5120, 14336, 40, 32, 8)
    | {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 128000,
        "model_type": "mistral",
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 131072,
    },
}
