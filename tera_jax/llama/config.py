"""What a decoder of the Llama family is made of, read from and written to Hugging Face's JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tera_jax.llama.rope import Llama3Scaling, read_hf

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# What transformers assumes for a key that the file leaves out. A key that is in no row is required.
_FAMILY_DEFAULTS: dict[str, Any] = {"tie_word_embeddings": False, "pad_token_id": None}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _FAMILY_DEFAULTS
    | {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2}
    | {"num_key_value_heads": None, "head_dim": None},
    "mistral": _FAMILY_DEFAULTS | {"bos_token_id": 1, "eos_token_id": 2, "head_dim": None},
    "qwen2": _FAMILY_DEFAULTS | {"bos_token_id": None, "eos_token_id": None, "head_dim": None},
    "qwen3": _FAMILY_DEFAULTS | {"bos_token_id": None, "eos_token_id": None},
}
_REQUIRED = frozenset(
    {
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
    }
)

_IMPLEMENTED = _REQUIRED | frozenset(
    {
        "tie_word_embeddings",
        "model_type",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "sliding_window",
        "use_sliding_window",
        "layer_types",
    }
)

# Keys that describe how the file came about or how a library runs it, not the function.
_HARMLESS = frozenset(
    {
        "architectures",
        "torch_dtype",
        "dtype",
        "transformers_version",
        "_name_or_path",
        "name_or_path",
        "_attn_implementation_autoset",
        "unsloth_version",
        "unsloth_fixed",
        "initializer_range",
        "use_cache",
        "max_window_layers",
        "max_sequence_length",
        "id2label",
        "label2id",
        "problem_type",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "torchscript",
        "task_specific_params",
        "chunk_size_feed_forward",
    }
)

# Keys that would change the function, with the values under which they do not.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "attention_dropout": (0.0, None),
    "pretraining_tp": (1, None),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
    "auto_map": (None,),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "pruned_heads": ({}, None),
    "use_bfloat16": (False, None),
}


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """A pre-norm decoder: RMSNorm, rotary positions, grouped query attention, gated SiLU.

    Widths in elements, positions and ``sliding_window`` in tokens (a query sees itself and the
    ``sliding_window - 1`` tokens before it). ``attention_bias`` is a bias on q, k and v (Qwen2),
    ``qk_norm`` an RMSNorm over each head of q and k (Qwen3). ``eos_token_id`` may be several.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float = 10000.0
    rope_scaling: Llama3Scaling | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    model_type: str = "llama"
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for field in ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: RoPE turns pairs")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(
                f"sliding_window={self.sliding_window} must be at least 1; None attends to all"
            )

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "LlamaConfig":
        """Reads the content of a ``config.json``, of transformers 4 or 5.

        Args:
            raw: the parsed JSON of a llama, mistral, qwen2 or qwen3 model.

        Raises:
            ValueError: for every key or value that would change the function and is not
                implemented, and for a missing key that has no default in transformers.
        """
        model_type = raw.get("model_type")
        if model_type not in _ARCHITECTURES:
            raise ValueError(
                f"config key model_type={model_type!r} is not supported; "
                f"choose a checkpoint of one of {', '.join(_ARCHITECTURES)}"
            )
        for key, value in raw.items():
            _check(key, value)
        full = _DEFAULTS[model_type] | dict(raw)
        required = _REQUIRED | ({"sliding_window"} if model_type == "mistral" else set())
        if missing := required - set(full):
            raise ValueError(
                f"config.json of a {model_type} model lacks {', '.join(sorted(missing))}; add it"
            )
        num_heads, head_dim = full["num_attention_heads"], full["head_dim"]
        if head_dim is None and full["hidden_size"] % num_heads:
            raise ValueError(
                f"num_attention_heads={num_heads} does not divide hidden_size="
                f"{full['hidden_size']}; give head_dim"
            )
        eos = full["eos_token_id"]
        rope_theta, rope_scaling = read_hf(raw)
        config = cls(
            vocab_size=full["vocab_size"],
            hidden_size=full["hidden_size"],
            intermediate_size=full["intermediate_size"],
            num_layers=full["num_hidden_layers"],
            num_heads=num_heads,
            num_kv_heads=full["num_key_value_heads"] or num_heads,
            head_dim=head_dim or full["hidden_size"] // num_heads,
            max_position_embeddings=full["max_position_embeddings"],
            rms_norm_eps=full["rms_norm_eps"],
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            tie_word_embeddings=full["tie_word_embeddings"],
            attention_bias=model_type == "qwen2",
            qk_norm=model_type == "qwen3",
            # Qwen writes a window into files whose use_sliding_window says that it is unused.
            sliding_window=full["sliding_window"] if model_type == "mistral" else None,
            model_type=model_type,
            bos_token_id=full["bos_token_id"],
            eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
            pad_token_id=full["pad_token_id"],
        )
        _check_windows(raw, config)
        return config

    def to_hf(self) -> dict[str, Any]:
        """The content of a ``config.json``: the inverse of :meth:`from_hf`.

        RoPE is written under the keys of transformers 5 and of 4: an older reader that knew only
        its own would silently fall back to theta = 10000.

        Raises:
            ValueError: when no model type of Hugging Face has this combination of fields.
        """
        expected = {
            "attention_bias": self.model_type == "qwen2",
            "qk_norm": self.model_type == "qwen3",
        }
        for field, value in expected.items():
            if getattr(self, field) != value:
                raise ValueError(
                    f"a {self.model_type} checkpoint has {field}={value}, not "
                    f"{getattr(self, field)}; choose another model_type"
                )
        if self.sliding_window is not None and self.model_type != "mistral":
            raise ValueError(
                f"a {self.model_type} checkpoint cannot say sliding_window={self.sliding_window}; "
                "use model_type='mistral'"
            )
        scaling = dataclasses.asdict(self.rope_scaling) if self.rope_scaling else {}
        rope = {"rope_type": "llama3" if scaling else "default", **scaling}
        eos = self.eos_token_id
        family: dict[str, Any] = {
            "llama": {"attention_bias": False, "mlp_bias": False},
            "mistral": {"sliding_window": self.sliding_window},
            "qwen2": {"use_sliding_window": False, "sliding_window": None},
            "qwen3": {"use_sliding_window": False, "sliding_window": None, "attention_bias": False},
        }
        return {
            "architectures": [_ARCHITECTURES[self.model_type]],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": rope if scaling else None,
            "rope_parameters": {"rope_theta": self.rope_theta, **rope},
            "attention_dropout": 0.0,
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
            "pad_token_id": self.pad_token_id,
            **family[self.model_type],
        }


def _check(key: str, value: Any) -> None:
    """Refuses a key of the JSON that is neither implemented nor known to be harmless."""
    if key in _ONLY:
        if value not in _ONLY[key]:
            raise ValueError(
                f"config key {key}={value!r} is not supported, only {_ONLY[key][0]!r}; "
                "choose another checkpoint or convert this one"
            )
    elif key not in _IMPLEMENTED and key not in _HARMLESS:
        raise ValueError(
            f"config key {key}={value!r} is unknown and may change the model; if it does not, "
            "remove it from config.json"
        )


def _check_windows(raw: Mapping[str, Any], config: LlamaConfig) -> None:
    """Refuses windows on some of the layers: every layer here is alike."""
    if raw.get("use_sliding_window"):
        raise ValueError(
            "config key use_sliding_window=True is not supported; set it to false where the text "
            "is shorter than the window"
        )
    if config.model_type == "llama" and raw.get("sliding_window") is not None:
        raise ValueError(
            f"config key sliding_window={raw['sliding_window']!r} has no meaning in a llama model; "
            "remove it, or use model_type='mistral'"
        )
    kind = "full_attention" if config.sliding_window is None else "sliding_attention"
    layer_types = raw.get("layer_types")
    if layer_types is not None and set(layer_types) != {kind}:
        raise ValueError(
            f"config key layer_types={layer_types!r} is not supported: all layers must be {kind}"
        )
