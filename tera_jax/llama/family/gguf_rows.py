"""GGUF files (llama.cpp): one row an architecture, beside the families of ``families.py``.

The metadata become the keys of a ``config.json``, which the family's row then reads. A row says
what an architecture's files have beside :data:`KEYS`. It also says what they store otherwise than
Hugging Face's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from tera_jax.json_files import Key
from tera_jax.llama.family.keys import COUNT, EPS


@dataclasses.dataclass(frozen=True)
class GgufRow:
    """What differs among architectures.

    Attributes:
        model_type: the row of :data:`tera_jax.llama.family.families.FAMILIES`.
        keys: of the metadata, below the architecture; they come before those of :data:`KEYS`.
        read: keys of numbers, each with its key in ``config.json``.
        tensors: GGUF's names of tensors that are not those of ``checkpoint/names.py``, each with
            Hugging Face's, below a layer.
        interleaved: each head of q and k has the two entries of a pair beside each other.
        wide_layers: how many layers the one size has whose queries are scaled by the root of
            ``hidden_size / num_heads``, in a family that else scales by that of ``head_dim``. The
            metadata say neither.
        strip_after: SentencePiece files have tokens that take the whitespace after them with them,
            and what follows begins as a text does. All are of this kind but for those named here;
            None where none is.
    """

    model_type: str
    keys: Mapping[str, Key] = dataclasses.field(default_factory=dict)
    read: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tensors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    interleaved: bool = False
    wide_layers: int | None = None
    strip_after: tuple[str, ...] | None = None


def _only(kind: Any) -> Key:
    """A key that would change the function, and the values under which it does not."""
    return Key(kind, None)


_COUNT_OR_NONE = Key(int | None, None, least=1, below=2**31)
_FACTOR = Key(float | None, None, above=0, below=1e6)
_CAP = Key(float, above=0, below=1e6)

KEYS: dict[str, Key] = {
    "block_count": COUNT,
    "context_length": COUNT,
    "embedding_length": COUNT,
    "feed_forward_length": COUNT,
    "attention.head_count": COUNT,
    "attention.head_count_kv": _COUNT_OR_NONE,
    "attention.key_length": _COUNT_OR_NONE,
    "attention.value_length": _COUNT_OR_NONE,
    "attention.layer_norm_rms_epsilon": EPS,
    "rope.freq_base": Key(float, 10000.0, least=1, below=1e15),
    "rope.dimension_count": _COUNT_OR_NONE,
    "rope.scaling.type": Key(Literal["none", "linear", "yarn", "longrope"] | None, None),
    "rope.scaling.factor": _FACTOR,
    "rope.scaling.original_context_length": _COUNT_OR_NONE,
    "rope.scaling.attn_factor": _FACTOR,
    "rope.scaling.yarn_beta_fast": _FACTOR,
    "rope.scaling.yarn_beta_slow": _FACTOR,
    "rope.scaling.yarn_ext_factor": _only(Literal[1.0]),
    "rope.scaling.yarn_attn_factor": _only(Literal[1.0]),
    "rope.scaling.yarn_log_multiplier": _only(Literal[0.0]),
    "rope.scaling.finetuned": _only(Literal[True]),
    "vocab_size": _COUNT_OR_NONE,
    "expert_count": _only(Literal[0]),
    "expert_used_count": _only(Literal[0]),
    "attention.sliding_window": _only(Literal[0]),
    "attention.causal": _only(Literal[True]),
    "use_parallel_residual": _only(Literal[False]),
    "tensor_data_layout": _only(Literal["Meta AI original pth"]),
}
"""Below every architecture. A key that neither this nor the row has is refused."""

_WINDOW = Key(int | None, None, least=0, below=2**31)
_PATTERN = Key(int | list[bool] | None, None, least=0, below=2**31)
_SANDWICH = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

ROWS: dict[str, GgufRow] = {
    "llama": GgufRow("llama", interleaved=True),
    "qwen2": GgufRow("qwen2"),
    "qwen3": GgufRow("qwen3"),
    "gemma": GgufRow("gemma"),
    "gemma2": GgufRow(
        "gemma2",
        # What a file does not say is what the family's models have.
        keys={
            "attention.sliding_window": dataclasses.replace(_WINDOW, default=4096),
            "attention.sliding_window_pattern": _PATTERN,
            "attn_logit_softcapping": dataclasses.replace(_CAP, default=50.0),
            "final_logit_softcapping": dataclasses.replace(_CAP, default=30.0),
        },
        read={
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        tensors=_SANDWICH,
        wide_layers=46,
    ),
    "gemma3": GgufRow(
        "gemma3_text",
        keys={
            "attention.sliding_window": _WINDOW,
            "attention.sliding_window_pattern": _PATTERN,
            "final_logit_softcapping": _FACTOR,
            "rope.freq_base": Key(float, 1e6, least=1, below=1e15),
            "rope.freq_base_swa": Key(float, 10000.0, least=1, below=1e15),
        },
        read={
            "final_logit_softcapping": "final_logit_softcapping",
            "rope.freq_base_swa": "rope_local_base_freq",
        },
        tensors=_SANDWICH,
        wide_layers=62,
    ),
    "phi3": GgufRow(
        "phi3",
        keys={"attention.sliding_window": _WINDOW},
        tensors={"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
        strip_after=("<unk>", "<s>", "<|endoftext|>"),
    ),
    "olmo2": GgufRow(
        "olmo2",
        tensors={
            "post_attention_norm": "post_attention_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
    ),
    "granite": GgufRow(
        "granite",
        keys={
            "attention.scale": _CAP,
            "logit_scale": _CAP,
            "embedding_scale": dataclasses.replace(_CAP, default=1.0),
            "residual_scale": dataclasses.replace(_CAP, default=1.0),
        },
        read={
            "attention.scale": "attention_multiplier",
            "logit_scale": "logits_scaling",
            "embedding_scale": "embedding_multiplier",
            "residual_scale": "residual_multiplier",
        },
        interleaved=True,
    ),
    # Which layers have no RoPE is not in the metadata: it is every fourth, as config.json has it
    # where it says nothing.
    "smollm3": GgufRow("smollm3", interleaved=True),
}
"""By ``general.architecture``."""
