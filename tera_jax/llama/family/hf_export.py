"""A config as the content of a ``config.json``."""

import dataclasses
from typing import Any

from tera_jax.llama.family import rope_keys
from tera_jax.llama.family.families import FAMILIES, Family

_ACTIVATIONS = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}
_BY_LAYER: dict[str, tuple[str, ...]] = {
    "windows": ("sliding_layers",),
    "nope": ("nope_layers",),
    "local_theta": ("local_rope_theta",),
    "partial": ("rotary_share",),
}
"""Features that an attribute of the family allows."""
_FEATURES: tuple[str, ...] = (
    *("attention_bias", "output_bias", "mlp_bias", "qk_norm", "qk_norm_over"),
    *("sliding_layers", "nope_layers", "local_rope_theta", "rotary_share", "norms"),
    *("norm_offset", "activation", "attention_soft_cap", "logit_soft_cap", "attention_scale"),
    *("query_scalar", "scaled_embedding", "embedding_multiplier", "residual_multiplier"),
    "logit_divisor",
)


def to_hf(config: Any) -> dict[str, Any]:
    """The content of a ``config.json``: the inverse of :func:`.hf_config.fields`.

    Args:
        config: a :class:`tera_jax.llama.LlamaConfig`.

    Raises:
        ValueError: when no model type of Hugging Face has this combination of fields.
    """
    family = FAMILIES[config.model_type]
    _require_of_family(config, family)
    eos = config.eos_token_id
    return {
        "architectures": [family.architecture],
        "model_type": config.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        family.activation_key: _ACTIVATIONS[config.activation],
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        **_rope(config, family),
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "pad_token_id": config.pad_token_id,
        **{key: _number(names[0], getattr(config, names[0])) for key, names in family.read.items()},
        **_layers(config, family),
        **family.written,
    }


def _require_of_family(config: Any, family: Family) -> None:
    """Refuse what the family's files cannot say."""
    default = {field.name: field.default for field in dataclasses.fields(config)}
    free = {name for names in family.read.values() for name in names}
    for attribute, names in _BY_LAYER.items():
        if getattr(family, attribute) not in (False, None, "none", "refused", "all"):
            free |= {*names}
    expected = {
        name: family.features.get(name, default[name]) for name in _FEATURES if name not in free
    }
    # Fields that one key sets are alike.
    for own in family.read.values():
        expected |= {name: getattr(config, own[-1]) for name in own[:-1]}
    for name, value in expected.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"a {config.model_type} checkpoint has {name}={value}, not "
                f"{getattr(config, name)}; choose another model_type"
            )
    if config.sliding_window is not None and not family.has_windows:
        raise ValueError(
            f"a {config.model_type} checkpoint cannot say sliding_window="
            f"{config.sliding_window}; use model_type='mistral'"
        )


def _number(field: str, value: Any) -> Any:
    """Transformers takes the scalar of Gemma's queries as a whole number alone."""
    return int(value) if field == "query_scalar" and float(value).is_integer() else value


def _rope(config: Any, family: Family) -> dict[str, Any]:
    """Under the keys of transformers 5 and of 4.

    An older reader that knew only its own would silently fall back to theta = 10000.
    """
    scaling = rope_keys.write_hf(config.rope_scaling)
    share = {"partial_rotary_factor": config.rotary_share} if family.partial else {}
    whole = {"rope_theta": config.rope_theta, **share, **scaling}
    old = None if config.rope_scaling is None else scaling
    written = {
        "rope_theta": config.rope_theta,
        **share,
        "rope_scaling": old,
        "rope_parameters": whole,
    }
    if family.local_theta is not None:
        local = {"rope_theta": config.local_rope_theta, "rope_type": "default"}
        both = {"full_attention": whole, "sliding_attention": local}
        written |= {"rope_local_base_freq": config.local_rope_theta, "rope_parameters": both}
    original = getattr(config.rope_scaling, "original_max_position_embeddings", None)
    if "original_max_position_embeddings" in family.keys and original is not None:
        written["original_max_position_embeddings"] = original
    return written


def _layers(config: Any, family: Family) -> dict[str, Any]:
    every = range(config.num_layers)
    written: dict[str, Any] = {}
    if family.has_windows:
        written["sliding_window"] = config.sliding_window
    if family.windows == "some":
        some = config.sliding_window is not None
        sliding = config.sliding_layers or [some] * config.num_layers
        written["layer_types"] = [
            "sliding_attention" if sliding[layer] else "full_attention" for layer in every
        ]
    if family.nope:
        without = config.nope_layers or [False] * config.num_layers
        written["no_rope_layers"] = [int(not without[layer]) for layer in every]
    return written
