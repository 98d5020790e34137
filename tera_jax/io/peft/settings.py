"""What ``adapter_config.json`` may hold: every key of PEFT 0.21 and each value that is understood.

A key that has no row is refused, and so is a value that its row does not take. Absent keys have
PEFT's defaults.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Never

from tera_jax import json_files
from tera_jax.io.peft.files import CONFIG
from tera_jax.json_files import Key

_MERGE = "merge the adapter in PEFT, and load the merged weights"
_SAVE = "save the adapter again"
_EMPTY = list[Never] | None
_NAMES = list[str] | str | None
_START = (
    "PEFT takes the start of any other out of the base's kernels: save the adapter there with "
    "path_initial_model_for_weight_conversion, which makes it a plain LoRA, or merge it there"
)


def _only(kind: Any, default: Any, remedy: str = _MERGE) -> Key:
    """A key of which some values alone are read."""
    return Key(kind, default, remedy=remedy)


def _harmless(kind: Any, default: Any = None) -> Key:
    """A key that does not change what the saved arrays do: training, start or bookkeeping."""
    return Key(kind, default)


def _alpha(kind: Any, default: Any) -> Key:
    """Within limits in which an update in float32 stays finite, and above zero."""
    return Key(kind, default, least=1e-6, below=1e6)


_DROPOUT = Key(float, 0.0, least=0, below=1)
_COMMON = {
    "peft_type": Key(str),
    "task_type": _only(
        Literal["CAUSAL_LM"] | None, None, "the heads of other tasks are not read; use PEFT"
    ),
    "auto_mapping": _harmless(dict | None),
    "base_model_name_or_path": _harmless(str | None),
    "inference_mode": _harmless(bool, False),
    "peft_version": _harmless(str | None),
    "revision": _harmless(str | None),
    "runtime_config": _harmless(Any),  # PEFT too takes no notice of it in a file
}
_MODULES = {
    **_COMMON,
    "fan_in_fan_out": _only(Literal[False], False, "set it to false, as PEFT does for a Llama"),
    "layers_pattern": Key(_NAMES, None),
    "layers_to_transform": Key(list[int] | int | None, None, least=0),
    "modules_to_save": Key(list[str] | None, None),
    "target_modules": Key(_NAMES, None),
}
_EXCLUDE = {"exclude_modules": Key(_NAMES, None)}
_BIAS = {"bias": _only(Literal["none"], "none")}
_RANKS = Key(dict[str, int] | None, {}, least=1)

_LORA = {
    **_MODULES,
    **_EXCLUDE,
    **_BIAS,
    "alora_invocation_tokens": _only(
        None, None, "an activated LoRA acts on some tokens alone; use PEFT"
    ),
    "alpha_pattern": _alpha(dict[str, float] | None, {}),
    "arrow_config": _only(None, None, "a router of several adapters is not read; use PEFT"),
    "corda_config": _harmless(dict | None),
    "enable_lora": _only(None, None),  # of PEFT before 0.3
    "ensure_weight_tying": _harmless(bool, False),
    "eva_config": _harmless(dict | None),
    "init_lora_weights": _only(
        bool | Literal["gaussian", "eva", "orthogonal", "mica", "pissa"] | None, True, _START
    ),
    "kasa_config": _only(None, None),
    "layer_replication": _only(None, None),
    "loftq_config": _harmless(dict | None, {}),
    "lora_alpha": _alpha(float, 8),
    "lora_bias": _only(Literal[False], False),
    "lora_dropout": _DROPOUT,
    "lora_ga_config": _harmless(dict | None),
    "megatron_config": _only(None, None),
    "megatron_core": _harmless(str | None, "megatron.core"),
    "merge_weights": _harmless(bool, False),  # of PEFT before 0.3
    "monteclora_config": _only(None, None),
    "qalora_group_size": _harmless(int, 16),
    "r": Key(int, 8, least=1),
    "rank_pattern": _RANKS,
    "target_parameters": _only(_EMPTY, None),
    "trainable_token_indices": _only(_EMPTY, None),
    "use_bdlora": _only(None, None),
    "use_dora": Key(bool, False),
    "use_qalora": _only(Literal[False], False),
    "use_rslora": Key(bool, False),
    "velora_config": _only(None, None),
}
_VERA = {
    **_MODULES,
    **_BIAS,
    "d_initial": Key(float, 0.1),
    "init_weights": _harmless(bool, True),
    "projection_prng_key": _harmless(int, 0),
    "r": Key(int, 256, least=1),
    "save_projection": _harmless(bool, True),
    "vera_dropout": _DROPOUT,
}
_RANDLORA = {
    **_MODULES,
    **_BIAS,
    "init_weights": _harmless(bool, True),
    "projection_prng_key": _harmless(int, 0),
    "r": Key(int, 32, least=1),
    "randlora_alpha": _alpha(float, 640),
    "randlora_dropout": _DROPOUT,
    "save_projection": _harmless(bool, True),
    "sparse": _harmless(bool, False),  # so are the saved bases
    "very_sparse": _harmless(bool, False),
}
_HIRA = {
    **_MODULES,
    **_EXCLUDE,
    "hira_dropout": _DROPOUT,
    "init_weights": _harmless(bool | Literal["gaussian"] | None, True),
    "r": Key(int, 32, least=1),
    "rank_pattern": _RANKS,
}
_UNILORA = {
    **_MODULES,
    **_BIAS,
    "init_theta_d_bound": Key(float, 0.02, above=0),
    "init_weights": _harmless(bool, True),
    "proj_seed": Key(int, 42, least=0),
    "r": Key(int, 4, least=1),
    "save_indices": _harmless(bool, False),
    "theta_d_length": Key(int, 256, least=1),
    "unilora_dropout": _DROPOUT,
}
_VBLORA = {
    **_MODULES,
    **_EXCLUDE,
    **_BIAS,
    "init_logits_std": Key(float, 0.1, above=0),
    "init_vector_bank_bound": Key(float, 0.02, above=0),
    "num_vectors": Key(int, 256, least=1),
    "r": Key(int, 4, least=1),
    "save_only_topk_weights": _only(
        Literal[False], False, "the other logits are lost; save it with all of them"
    ),
    "topk": Key(int, 2, least=1),
    "vblora_dropout": _DROPOUT,
    "vector_length": Key(int, 256, least=1),
}
_FOURIERFT = {
    **_MODULES,
    **_EXCLUDE,
    **_BIAS,
    "init_weights": Key(bool, False),
    "n_frequency": Key(int, 1000, least=1),
    "n_frequency_pattern": _only(dict[str, Never] | None, {}),
    "random_loc_seed": Key(int, 777, least=0),
    "scaling": _alpha(float, 150.0),
}
_LN_TUNING = {
    **_COMMON,
    **_EXCLUDE,
    "modules_to_save": Key(list[str] | None, None),
    "target_modules": Key(_NAMES, None),
}
_PROMPT = {
    **_COMMON,
    "modules_to_save": _only(_EMPTY, None, "a prompt beside trained modules is not read; use PEFT"),
    "num_attention_heads": _harmless(int | None),
    "num_layers": _harmless(int | None),
    "num_transformer_submodules": _only(
        Literal[1] | None, None, "two are of an encoder and a decoder; use PEFT"
    ),
    "num_virtual_tokens": Key(int, least=1),
    "token_dim": Key(int | None, None, least=1),
}
TABLES: dict[str, dict[str, Key]] = {
    "LORA": _LORA,
    "VERA": _VERA,
    "RANDLORA": _RANDLORA,
    "HIRA": _HIRA,
    "UNILORA": _UNILORA,
    "VBLORA": _VBLORA,
    "FOURIERFT": _FOURIERFT,
    "LN_TUNING": _LN_TUNING,
    "PROMPT_TUNING": {
        **_PROMPT,
        "prompt_tuning_init": _harmless(Literal["RANDOM", "TEXT", "SAMPLE_VOCAB"], "RANDOM"),
        "prompt_tuning_init_text": _harmless(str | None),
        "tokenizer_kwargs": _harmless(dict | None),
        "tokenizer_name_or_path": _harmless(str | None),
    },
    "P_TUNING": {  # the saved prompt is what the encoder made
        **_PROMPT,
        "encoder_dropout": _harmless(float, 0.0),
        "encoder_hidden_size": _harmless(int | None),
        "encoder_num_layers": _harmless(int, 2),
        "encoder_reparameterization_type": _harmless(Literal["MLP", "LSTM"], "MLP"),
    },
}
"""The keys of each ``peft_type`` that is read."""


def read(path: Path) -> dict[str, Any]:
    """The configuration in a directory, with PEFT's defaults for absent keys.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is no JSON object, of a ``peft_type`` that is not read, or has a key or
            a value that is not understood; it names file, key and value.
    """
    file = path / CONFIG
    content = json_files.read(file, remedy=_SAVE)
    kind_of = {"peft_type": _COMMON["peft_type"]}
    json_files.typed(file, content, kind_of, others="ignore", remedy=_SAVE)
    kind = content["peft_type"]
    if kind not in TABLES:
        raise ValueError(
            f"{file} is of type {json_files.shown(kind)}, and read are {', '.join(TABLES)}; merge "
            "the adapter in PEFT if that can be, and load the merged weights"
        )
    config = json_files.typed(file, content, TABLES[kind], remedy=_MERGE)
    _require_together(file, config)
    return config


def _require_together(file: Path, config: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for values that are understood alone but not beside each other."""
    if config.get("init_lora_weights") == "pissa":
        for key in ("use_dora", "rank_pattern", "alpha_pattern"):
            if config[key]:
                raise ValueError(
                    f"{file} sets {key} to {json_files.shown(config[key])} beside "
                    f"init_lora_weights 'pissa', which is read without it; {_START}"
                )
    layers, pattern = config.get("layers_to_transform"), config.get("layers_pattern")
    if pattern and layers is None:
        raise ValueError(
            f"{file} sets layers_pattern to {json_files.shown(pattern)} without "
            "layers_to_transform, which PEFT refuses too; take it out"
        )
    if layers is not None and isinstance(config["target_modules"], str):
        raise ValueError(
            f"{file} sets layers_to_transform to {json_files.shown(layers)} beside a text for "
            "target_modules, which PEFT refuses too; give target_modules as a list"
        )
