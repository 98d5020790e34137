"""The keys that every family's ``config.json`` may hold, and the values that are understood.

A key that has no row is refused, and so is a value that its row does not take. Absent keys have
the defaults of transformers.
"""

from typing import Any, Literal

from tera_jax.json_files import Key

WHERE = "config.json"
CONVERT = "choose another checkpoint or convert this one"
FETCH = "fetch the file again"

COUNT = Key(int, least=1, below=2**31, remedy=FETCH)
"""A size of the model."""
EPS = Key(float, above=0, below=1, remedy=FETCH)
"""What a norm adds before its root."""
TOKEN_IDS = Key(int | list[int] | None, None, least=0, remedy=FETCH)
"""One token id or several."""
COUNT_OR_NONE = Key(int | None, None, least=1, below=2**31, remedy=FETCH)
# Some files say -1 for "none".
_PADDING = Key(int | None, None, least=-1, remedy=FETCH)


def only(kind: Any, remedy: str = CONVERT) -> Key:
    """A key that would change the function, and the values under which it does not."""
    return Key(kind, None, remedy=remedy)


OFF = only(Literal[False] | None)
_DROPOUT = Key(float | None, None, least=0, below=1, remedy=FETCH)
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
    "model_type": Key(str),
    "bos_token_id": Key(int | None, None, least=0, remedy=FETCH),
    "eos_token_id": TOKEN_IDS,
    "pad_token_id": _PADDING,
    "rope_theta": Key(float | None, None, least=1, below=1e15, remedy=FETCH),
    "rope_scaling": Key(dict | None, None),
    "rope_parameters": Key(dict | None, None),
    "sliding_window": COUNT_OR_NONE,
    "layer_types": Key(list[str] | None, None),
}
_ONLY = {
    "add_cross_attention": OFF,
    "attention_bias": OFF,
    "auto_map": only(None, "code of a checkpoint is never run; remove the key or " + CONVERT),
    "hidden_act": Key(Literal["silu"], "silu", remedy=CONVERT),
    "is_encoder_decoder": OFF,
    "is_llama_config": only(Literal[True] | None),
    "mlp_bias": OFF,
    "partial_rotary_factor": only(Literal[1.0, 1] | None),
    "pretraining_tp": only(Literal[1] | None),
    "pruned_heads": only(dict[str, Any] | None),
    "quantization_config": only(None, "choose the checkpoint that is not quantised"),
    "rope_interleaved": OFF,
    "tie_encoder_decoder": OFF,
    "use_bfloat16": OFF,
    "use_mrope": OFF,
    "use_sliding_window": only(
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
COMMON = {
    **_SIZES,
    **_ONLY,
    **dict.fromkeys(_DROPOUTS.split(), _DROPOUT),
    **dict.fromkeys(_HARMLESS.split(), Key(Any, None)),
}
