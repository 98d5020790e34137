"""What a decoder of the Llama family is made of, read from and written to Hugging Face's JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tera_jax.json_files import Key
from tera_jax.llama import hf_config
from tera_jax.llama.rope import Llama3Scaling

_COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "max_position_embeddings",
)
_LIMITS = dict.fromkeys(_COUNTS, hf_config.COUNT) | {
    "rms_norm_eps": hf_config.EPS,
    "rope_theta": Key(float, least=1, below=1e15),
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
        for field, limits in _LIMITS.items():
            if not limits.takes(getattr(self, field)):
                raise ValueError(f"{field}={getattr(self, field)!r} must be {limits}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: RoPE turns pairs")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(
                f"sliding_window={self.sliding_window} must be at least 1; None attends to all"
            )
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            given = getattr(self, name)
            for id_ in given if isinstance(given, tuple) else (given,):
                if id_ is not None and not 0 <= id_ < self.vocab_size:
                    raise ValueError(
                        f"{name}={id_} must be at least 0 and below vocab_size={self.vocab_size}"
                    )

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "LlamaConfig":
        """Reads the content of a ``config.json``, of transformers 4 or 5.

        Args:
            raw: the parsed JSON of a llama, mistral, qwen2 or qwen3 model.

        Raises:
            ValueError: for every key or value that would change the function and is not
                implemented. For a value of another type or out of its range, and for a missing key
                that has no default in transformers. The error names the key.
        """
        return cls(**hf_config.fields(raw))

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
            "architectures": [hf_config.ARCHITECTURES[self.model_type]],
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
