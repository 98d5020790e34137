"""One row a family of decoders: what its ``config.json`` may hold, and what that means here.

The decoder reads :class:`tera_jax.llama.config.LlamaConfig` alone, and the fields of that follow
from a row. A key whose value is a field is named in ``read``; what every model of the family has is
in ``features``.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from tera_jax.json_files import Key
from tera_jax.llama.family.keys import COMMON, CONVERT, COUNT_OR_NONE, FETCH, OFF, only


@dataclasses.dataclass(frozen=True)
class Family:
    """What differs among families.

    Attributes:
        architecture: the class of transformers.
        keys: of ``config.json``; one that is not here is refused.
        features: fields of every model of the family that are not the default.
        read: keys of numbers and switches, each with the fields that it sets.
        windows: which layers have the sliding window, where there is one: ``none``, ``all``, or
            ``some`` (by ``layer_types``, or all but every ``pattern``-th). With ``refused`` a file
            with one is no file of the family; with ``none`` it is unused.
        pattern: see ``windows``.
        theta: of RoPE, where the file does not say.
        partial: a part of each head may turn.
        local_theta: of RoPE in layers with a window, where it differs from the others'.
        nope: layers without RoPE may be listed.
        fused: q, k and v are one tensor in the files, and so are gate and up.
        activation_key: of ``config.json``.
        written: what exports say beside that.
    """

    architecture: str
    keys: Mapping[str, Key]
    features: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    read: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    windows: Literal["none", "refused", "all", "some"] = "none"
    pattern: int = 0
    theta: float = 10000.0
    partial: bool = False
    local_theta: float | None = None
    nope: bool = False
    fused: bool = False
    activation_key: str = "hidden_act"
    written: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def has_windows(self) -> bool:
        """Whether its layers may have a sliding window."""
        return self.windows in ("all", "some")


def _default(bos: Any, eos: Any, pad: int | None = None) -> dict[str, Key]:
    return {
        "bos_token_id": Key(int | None, bos, least=0, remedy=FETCH),
        "eos_token_id": Key(int | list[int] | None, eos, least=0, remedy=FETCH),
        "pad_token_id": Key(int | None, pad, least=-1, remedy=FETCH),
    }


def _count(default: int) -> Key:
    return Key(int, default, least=1, below=2**31, remedy=FETCH)


_HEAD_DIM = {"head_dim": COUNT_OR_NONE}
_GROUPED = _HEAD_DIM | {"num_key_value_heads": COUNT_OR_NONE}
_NUMBER = Key(float, 1.0, above=0, below=1e6, remedy=FETCH)
_CAP = Key(float | None, None, above=0, below=1e6, remedy=FETCH)
_SWITCH = Key(bool, False)
_BIASES = {"attention_bias": _SWITCH, "mlp_bias": _SWITCH}
_READ_BIASES: dict[str, tuple[str, ...]] = {
    "attention_bias": ("attention_bias", "output_bias"),
    "mlp_bias": ("mlp_bias",),
}
_EPS = Key(float, 1e-6, above=0, below=1, remedy=FETCH)
_TIED = {"tie_word_embeddings": Key(bool, True)}
_NO_WINDOW = {"use_sliding_window": False, "sliding_window": None}
_TANH = Key(Literal["gelu_pytorch_tanh"], "gelu_pytorch_tanh", remedy=CONVERT)

_GEMMA = (
    COMMON
    | _default(2, 1, 0)
    | _TIED
    | {
        "hidden_act": Key(Literal["gelu_pytorch_tanh", "gelu"], "gelu", remedy=CONVERT),
        "hidden_activation": Key(Literal["gelu_pytorch_tanh"] | None, None, remedy=CONVERT),
        "head_dim": _count(256),
        "rms_norm_eps": _EPS,
        "max_position_embeddings": _count(8192),
        "use_bidirectional_attention": OFF,
        "attention_bias": _SWITCH,
        "cache_implementation": Key(str | None, None),
    }
)
_GEMMA_FEATURES = {"norm_offset": 1.0, "activation": "gelu_tanh", "scaled_embedding": True}
_GEMMA_READ: dict[str, tuple[str, ...]] = {"attention_bias": ("attention_bias", "output_bias")}
_SANDWICH = _GEMMA | {
    "hidden_act": Key(Any, None),  # the model reads the other one
    "hidden_activation": _TANH,
    "query_pre_attn_scalar": Key(float, 256, above=0, below=1e6, remedy=FETCH),
    "sliding_window": Key(int | None, 4096, least=1, below=2**31, remedy=FETCH),
}
_CAPS: dict[str, tuple[str, ...]] = {
    "attn_logit_softcapping": ("attention_soft_cap",),
    "final_logit_softcapping": ("logit_soft_cap",),
    "query_pre_attn_scalar": ("query_scalar",),
}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        "LlamaForCausalLM",
        COMMON | _default(1, 2) | _GROUPED | _BIASES | {"max_position_embeddings": _count(2048)},
        read=_READ_BIASES,
        windows="refused",
    ),
    "mistral": Family(
        "MistralForCausalLM",
        COMMON
        | _default(1, 2)
        | _HEAD_DIM
        | {"sliding_window": Key(int | None, least=1, below=2**31, remedy=FETCH)},
        windows="all",
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        COMMON | _HEAD_DIM,
        features={"attention_bias": True},
        written=_NO_WINDOW,
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        COMMON,
        features={"qk_norm": True},
        written=_NO_WINDOW | {"attention_bias": False},
    ),
    "gemma": Family("GemmaForCausalLM", _GEMMA, features=_GEMMA_FEATURES, read=_GEMMA_READ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        _SANDWICH
        | {
            "attn_logit_softcapping": dataclasses.replace(_CAP, default=50.0),
            "final_logit_softcapping": dataclasses.replace(_CAP, default=30.0),
            "sliding_window_size": COUNT_OR_NONE,  # the model does not read it
        },
        features=_GEMMA_FEATURES | {"norms": "both"},
        read=_GEMMA_READ | _CAPS,
        windows="some",
        pattern=2,
        activation_key="hidden_activation",
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        _SANDWICH
        | {
            "vocab_size": _count(262208),
            "hidden_size": _count(2304),
            "intermediate_size": _count(9216),
            "num_hidden_layers": _count(26),
            "num_attention_heads": _count(8),
            "num_key_value_heads": _count(4),
            "max_position_embeddings": _count(131072),
            "attn_logit_softcapping": only(None),
            "final_logit_softcapping": _CAP,
            "rope_local_base_freq": Key(float | None, None, least=1, below=1e15, remedy=FETCH),
            "sliding_window_pattern": COUNT_OR_NONE,
            "_sliding_window_pattern": COUNT_OR_NONE,
        },
        features=_GEMMA_FEATURES | {"norms": "both", "qk_norm": True},
        read=_GEMMA_READ | {key: _CAPS[key] for key in _CAPS if key != "attn_logit_softcapping"},
        windows="some",
        pattern=6,
        theta=1e6,
        local_theta=1e4,
        activation_key="hidden_activation",
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        COMMON
        | _default(1, 32000, 32000)
        | _GROUPED
        | {
            "max_position_embeddings": _count(4096),
            "original_max_position_embeddings": _count(4096),
            "partial_rotary_factor": Key(float, 1.0, above=0, below=1 + 1e-9, remedy=FETCH),
            # The files bring a copy of the code that transformers has. It is not run.
            "auto_map": Key(dict[str, str] | None, None),
            # What the code of Phi-4-mini reads, and transformers does not.
            "full_attn_mod": only(Literal[1] | None),
            "interpolate_factor": only(Literal[1] | None),
            "lm_head_bias": OFF,
        },
        windows="all",
        partial=True,
        fused=True,
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        COMMON
        | _default(None, 50279, 1)
        | _GROUPED
        | {
            "attention_bias": _SWITCH,
            "max_position_embeddings": _count(2048),
            "rms_norm_eps": dataclasses.replace(_EPS, default=1e-5),
        },
        features={"norms": "post", "qk_norm": True, "qk_norm_over": "projection"},
        read=_GEMMA_READ,
    ),
    "granite": Family(
        "GraniteForCausalLM",
        COMMON
        | _default(1, 2)
        | _GROUPED
        | _BIASES
        | {
            "max_position_embeddings": _count(2048),
            "rms_norm_eps": _EPS,
            "attention_multiplier": _NUMBER,
            "embedding_multiplier": _NUMBER,
            "residual_multiplier": _NUMBER,
            "logits_scaling": _NUMBER,
        },
        read=_READ_BIASES
        | {
            "attention_multiplier": ("attention_scale",),
            "embedding_multiplier": ("embedding_multiplier",),
            "residual_multiplier": ("residual_multiplier",),
            "logits_scaling": ("logit_divisor",),
        },
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        COMMON
        | _default(128000, 128001, 128004)
        | _GROUPED
        | _BIASES
        | _TIED
        | {
            "num_key_value_heads": Key(int | None, 4, least=1, below=2**31, remedy=FETCH),
            "max_position_embeddings": _count(32768),
            "rms_norm_eps": _EPS,
            "no_rope_layers": Key(list[int] | None, None, least=0, below=2, remedy=FETCH),
            "no_rope_layer_interval": _count(4),
            "pretraining_tp": COUNT_OR_NONE,  # the model does not read it
        },
        read=_READ_BIASES,
        theta=2e6,
        nope=True,
        written=_NO_WINDOW,
    ),
}
"""By ``model_type``."""

ARCHITECTURES = {kind: family.architecture for kind, family in FAMILIES.items()}
"""The class of transformers, by ``model_type``."""

MIXTURES = frozenset(
    (
        *("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "granitemoe"),
        *("granitemoeshared", "granitemoehybrid", "deepseek_v2", "deepseek_v3", "llama4"),
        *("llama4_text", "gpt_oss", "dbrx", "jetmoe"),
    )
)
"""Model types that are mixtures of experts."""
