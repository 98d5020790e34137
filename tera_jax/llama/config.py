"""What a decoder of the Llama family is made of, read from and written to Hugging Face's JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from tera_jax.json_files import Key
from tera_jax.llama.family import hf_config, hf_export, keys
from tera_jax.llama.family.rope_scaling import Scaling

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
_LIMITS = dict.fromkeys(_COUNTS, keys.COUNT) | {
    "rms_norm_eps": keys.EPS,
    "rope_theta": Key(float, least=1, below=1e15),
}


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """A decoder: RMSNorm, rotary positions, grouped query attention, a gated MLP.

    Widths in elements, positions and windows in tokens. What a Llama has is the default of each
    field from ``rope_theta`` on; :mod:`tera_jax.llama.family.families` says what other families
    have.

    Attributes:
        rope_scaling: how rotary frequencies are stretched.
        attention_bias: a bias on q, k and v; ``output_bias`` is that of o.
        mlp_bias: a bias on the three matrices of the MLP.
        qk_norm: an RMSNorm over each head of q and k, or over all of them together.
        sliding_window: a query sees itself and the ``sliding_window - 1`` tokens before it.
        sliding_layers: of each layer, whether it has the window; None for all.
        nope_layers: of each layer, whether it is without positions; None for no layer.
        local_rope_theta: theta of the layers with a window, which are then not stretched.
        rotary_share: of a head's entries, from its first on, that turn.
        norms: before attention and MLP, after them, or both.
        norm_offset: is added to the scale of every norm.
        activation: of the gate; ``gelu_tanh`` is GELU by its tanh formula.
        attention_soft_cap: c, where scores s become c tanh(s / c); ``logit_soft_cap`` likewise.
        attention_scale: multiplies the products of queries and keys; 1 / sqrt(head_dim) when None.
        query_scalar: a number whose inverse root does so.
        scaled_embedding: token embeddings are multiplied by sqrt(hidden_size).
        embedding_multiplier: multiplies what enters the first layer.
        residual_multiplier: multiplies what attention and MLP add.
        logit_divisor: divides the logits.
        eos_token_id: may be several.
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
    rope_scaling: Scaling | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    model_type: str = "llama"
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm_over: Literal["head", "projection"] = "head"
    sliding_layers: tuple[bool, ...] | None = None
    nope_layers: tuple[bool, ...] | None = None
    local_rope_theta: float | None = None
    rotary_share: float = 1.0
    norms: Literal["pre", "post", "both"] = "pre"
    norm_offset: float = 0.0
    activation: Literal["silu", "gelu_tanh"] = "silu"
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    attention_scale: float | None = None
    query_scalar: float | None = None
    scaled_embedding: bool = False
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logit_divisor: float = 1.0

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
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ValueError(
                f"rotary_share={self.rotary_share} of head_dim={self.head_dim} must be an even "
                "number of entries: RoPE turns pairs"
            )
        for name in ("sliding_layers", "nope_layers"):
            listed = getattr(self, name)
            if listed is not None and len(listed) != self.num_layers:
                raise ValueError(
                    f"{name} has {len(listed)} entries for num_layers={self.num_layers}; give one "
                    "for each layer"
                )
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
            raw: the parsed JSON of a model of :data:`tera_jax.llama.family.families.FAMILIES`.

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
        return hf_export.to_hf(self)

    @property
    def rotary_dim(self) -> int:
        """The entries of a head that turn."""
        return int(self.head_dim * self.rotary_share)

    @property
    def score_scale(self) -> float | None:
        """What multiplies the products of queries and keys; None for 1 / sqrt(head_dim)."""
        return self.attention_scale if self.query_scalar is None else self.query_scalar**-0.5

    @property
    def mixes_windows(self) -> bool:
        """Whether some layers have the window and others do not."""
        return self.sliding_window is not None and self.sliding_layers is not None

    def has_window(self, layer: int) -> bool:
        """Whether a layer has the sliding window."""
        return self.sliding_window is not None and (
            self.sliding_layers is None or self.sliding_layers[layer]
        )
