"""Small random checkpoints of the families that are rows of ``family/families.py``."""

from pathlib import Path

import torch
import transformers

SMALL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_PAIRS = 8
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0 + 0.05 * pair for pair in range(_PAIRS)],
    "long_factor": [1.5 + 0.7 * pair for pair in range(_PAIRS)],
}
_LONG_6 = {**LONG, **{f"{name}_factor": LONG[f"{name}_factor"][:6] for name in ("short", "long")}}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
_ROPES = {
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    "yarn": {**_YARN, "original_max_position_embeddings": 64},
    "yarn-mscale": {
        **_YARN,
        "original_max_position_embeddings": 64,
        "mscale": 1.3,
        "mscale_all_dim": 0.5,
        "beta_fast": 20.0,
        "beta_slow": 2.0,
        "truncate": False,
    },
    "longrope": {**LONG, "original_max_position_embeddings": 16},
}
_SANDWICH = {"head_dim": 32, "sliding_window": 6, "query_pre_attn_scalar": 20}

FAMILIES = {
    "gemma": ("Gemma", {"head_dim": 32, "num_key_value_heads": 1}),
    "gemma2": (
        "Gemma2",
        {**_SANDWICH, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0},
    ),
    "gemma3": (
        "Gemma3Text",
        {
            **_SANDWICH,
            "num_hidden_layers": 6,
            "final_logit_softcapping": 5.0,
            "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "phi3": ("Phi3", {"sliding_window": 7}),
    "phi3-long": (
        "Phi3",
        {
            "num_key_value_heads": 4,
            "original_max_position_embeddings": 16,
            "rope_parameters": {**_LONG_6, "partial_rotary_factor": 0.75},
            "tie_word_embeddings": True,
        },
    ),
    "olmo2": ("Olmo2", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "granite": (
        "Granite",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "attention_multiplier": 0.4,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.3,
            "logits_scaling": 4.0,
            "tie_word_embeddings": True,
        },
    ),
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 0, 1, 0], "attention_bias": True}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen2.5": ("Qwen2", {"num_attention_heads": 8, "rms_norm_eps": 1e-6}),
    "nemo": ("Mistral", {"head_dim": 24, "sliding_window": None}),
    **{
        f"llama-{name}": ("Llama", {"rope_parameters": rope, "num_hidden_layers": 2})
        for name, rope in _ROPES.items()
    },
}


def save(family: str, path: Path, **more: object) -> Path:
    """A random checkpoint of a family, with norms and biases that are not what they start as."""
    kind, changes = FAMILIES[family]
    return write(kind, {**changes, **more}, path, list(FAMILIES).index(family))


def write(kind: str, changes: dict[str, object], path: Path, seed: int = 0) -> Path:
    """The same of a class of transformers, with keys of its config beside the small ones."""
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **changes})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(path)
    return path
