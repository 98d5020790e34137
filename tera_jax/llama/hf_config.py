"""What ``config.json`` may hold: every key that is understood, and the values that are.

A key that has no row is refused, and so is a value that its row does not take. Absent keys have
the defaults of transformers.
"""

from collections.abc import Mapping
from typing import Any, Literal

from tera_jax import json_files
from tera_jax.json_files import Key
from tera_jax.llama.rope import read_hf

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_WHERE = "config.json"
_CONVERT = "choose another checkpoint or convert this one"
_FETCH = "fetch the file again"

COUNT = Key(int, least=1, below=2**31, remedy=_FETCH)
"""A size of the model."""
EPS = Key(float, above=0, below=1, remedy=_FETCH)
"""What a norm adds before its root."""
TOKEN_IDS = Key(int | list[int] | None, None, least=0, remedy=_FETCH)
"""One token id or several."""
_COUNT_OR_NONE = Key(int | None, None, least=1, below=2**31, remedy=_FETCH)
# Some files say -1 for "none".
_PADDING = Key(int | None, None, least=-1, remedy=_FETCH)


def _only(kind: Any, remedy: str = _CONVERT) -> Key:
    """A key that would change the function, and the values under which it does not."""
    return Key(kind, None, remedy=remedy)


_OFF = _only(Literal[False] | None)
_DROPOUT = Key(float | None, None, least=0, below=1, remedy=_FETCH)
"""Of training alone. An adapter's dropout is the method's."""
_SIZES = {
    "vocab_size": COUNT,
    "hidden_size": COUNT,
    "intermediate_size": COUNT,
    "num_hidden_layers": COUNT,
    "num_attention_heads": COUNT,
    "num_key_value_heads": COUNT,
    "head_dim": COUNT,
    "max_position_embeddings": COUNT,
    "rms_norm_eps": EPS,
    "tie_word_embeddings": Key(bool, False),
    "model_type": Key(Literal["llama", "mistral", "qwen2", "qwen3"]),
    "bos_token_id": Key(int | None, None, least=0, remedy=_FETCH),
    "eos_token_id": TOKEN_IDS,
    "pad_token_id": _PADDING,
    "rope_theta": Key(float | None, None, least=1, below=1e15, remedy=_FETCH),
    "rope_scaling": Key(dict | None, None),
    "rope_parameters": Key(dict | None, None),
    "sliding_window": _COUNT_OR_NONE,
    "layer_types": Key(list[str] | None, None),
}
_ONLY = {
    "add_cross_attention": _OFF,
    "attention_bias": _OFF,
    "auto_map": _only(None, "code of a checkpoint is never run; remove the key or " + _CONVERT),
    "hidden_act": Key(Literal["silu"], "silu", remedy=_CONVERT),
    "is_encoder_decoder": _OFF,
    "is_llama_config": _only(Literal[True] | None),
    "mlp_bias": _OFF,
    "partial_rotary_factor": _only(Literal[1.0, 1] | None),
    "pretraining_tp": _only(Literal[1] | None),
    "pruned_heads": _only(dict[str, Any] | None),
    "quantization_config": _only(None, "choose the checkpoint that is not quantised"),
    "rope_interleaved": _OFF,
    "tie_encoder_decoder": _OFF,
    "use_bfloat16": _OFF,
    "use_mrope": _OFF,
    "use_sliding_window": _only(
        Literal[False] | None, "set it to false where the text is shorter than the window"
    ),
}
_DROPOUTS = (
    "attention_dropout attn_dropout attn_pdrop classifier_dropout dropout embd_pdrop "
    "hidden_dropout hidden_dropout_prob resid_dropout resid_pdrop"
)
# How the file came about, how a library runs or trains the model, and how it chooses tokens: what
# transformers reads for another purpose than the function, or does not read at all.
_HARMLESS = (
    "_attn_implementation _attn_implementation_autoset _attn_implementation_internal "
    "_flash_attn_2_enabled _name_or_path architectures attn_implementation bad_words_ids "
    "begin_suppress_tokens chunk_size_feed_forward cross_attention_hidden_size "
    "decoder_start_token_id diversity_penalty do_sample dtype early_stopping "
    "encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task "
    "forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label initializer_range "
    "is_decoder label2id length_penalty max_length max_sequence_length max_window_layers "
    "min_length model_max_length name_or_path no_repeat_ngram_size num_beam_groups num_beams "
    "num_return_sequences output_attentions output_hidden_states output_scores prefix "
    "problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate "
    "sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss "
    "tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config "
    "transformers_version typical_p unsloth_fixed unsloth_version use_cache"
)
_COMMON = {
    **_SIZES,
    **_ONLY,
    **dict.fromkeys(_DROPOUTS.split(), _DROPOUT),
    **dict.fromkeys(_HARMLESS.split(), Key(Any, None)),
}


def _default(default: Any) -> dict[str, Key]:
    return {
        "bos_token_id": Key(int | None, default[0], least=0, remedy=_FETCH),
        "eos_token_id": Key(int | list[int] | None, default[1], least=0, remedy=_FETCH),
    }


_HEAD_DIM = {"head_dim": _COUNT_OR_NONE}
_TABLES: dict[str, dict[str, Key]] = {
    "llama": _COMMON
    | _default((1, 2))
    | _HEAD_DIM
    | {"num_key_value_heads": _COUNT_OR_NONE}
    | {"max_position_embeddings": Key(int, 2048, least=1, below=2**31, remedy=_FETCH)},
    "mistral": _COMMON
    | _default((1, 2))
    | _HEAD_DIM
    | {"sliding_window": Key(int | None, least=1, below=2**31, remedy=_FETCH)},
    "qwen2": _COMMON | _HEAD_DIM,
    "qwen3": _COMMON,
}


def fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a :class:`tera_jax.llama.LlamaConfig` in the content of a ``config.json``.

    Args:
        raw: the parsed JSON of a llama, mistral, qwen2 or qwen3 model, of transformers 4 or 5.

    Raises:
        ValueError: for a key that is unknown or missing, and for a value that is not implemented,
            of another type or out of its range.
    """
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise ValueError(
            f"{_WHERE} has model_type={json_files.shown(kind)}, which is not supported; choose a "
            f"checkpoint of one of {', '.join(ARCHITECTURES)}"
        )
    remedy = "a key that does not change the model can be removed"
    full = json_files.typed(_WHERE, raw, _TABLES[kind], remedy=remedy)
    if full["pruned_heads"]:
        raise ValueError(f"{_WHERE} has pruned_heads, which are not supported; {_CONVERT}")
    num_heads, head_dim = full["num_attention_heads"], full["head_dim"]
    if head_dim is None and full["hidden_size"] % num_heads:
        raise ValueError(
            f"{_WHERE}: num_attention_heads={num_heads} does not divide hidden_size="
            f"{full['hidden_size']}; give head_dim"
        )
    # Qwen writes a window into files whose use_sliding_window says that it is unused.
    window = full["sliding_window"] if kind == "mistral" else None
    if kind == "llama" and full["sliding_window"] is not None:
        raise ValueError(
            f"{_WHERE}: sliding_window={full['sliding_window']} has no meaning in a llama model; "
            "remove it, or use model_type='mistral'"
        )
    _require_alike(full, "full_attention" if window is None else "sliding_attention")
    theta, scaling = read_hf(raw)
    eos, pad = full["eos_token_id"], full["pad_token_id"]
    return {
        "vocab_size": full["vocab_size"],
        "hidden_size": full["hidden_size"],
        "intermediate_size": full["intermediate_size"],
        "num_layers": full["num_hidden_layers"],
        "num_heads": num_heads,
        "num_kv_heads": full["num_key_value_heads"] or num_heads,
        "head_dim": head_dim or full["hidden_size"] // num_heads,
        "max_position_embeddings": full["max_position_embeddings"],
        "rms_norm_eps": full["rms_norm_eps"],
        "rope_theta": theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": full["tie_word_embeddings"],
        "attention_bias": kind == "qwen2",
        "qk_norm": kind == "qwen3",
        "sliding_window": window,
        "model_type": kind,
        "bos_token_id": full["bos_token_id"],
        "eos_token_id": tuple(eos) if isinstance(eos, list) else eos,
        "pad_token_id": None if pad == -1 else pad,
    }


def _require_alike(full: Mapping[str, Any], kind: str) -> None:
    """Refuses windows on some of the layers: every layer here is alike."""
    types, layers = full["layer_types"], full["num_hidden_layers"]
    if types is None:
        return
    if len(types) != layers:
        raise ValueError(
            f"{_WHERE} has {len(types)} layer_types for num_hidden_layers={layers}; {_FETCH}"
        )
    if set(types) != {kind}:
        raise ValueError(
            f"{_WHERE}: layer_types={json_files.shown(types)} is not supported, for all layers "
            f"must be {kind}; {_CONVERT}"
        )
