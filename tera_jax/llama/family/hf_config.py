"""A ``config.json`` as the fields of a config, and back."""

from collections.abc import Mapping
from typing import Any

from tera_jax import json_files
from tera_jax.llama.family import rope_keys
from tera_jax.llama.family.families import ARCHITECTURES, FAMILIES, MIXTURES, Family
from tera_jax.llama.family.keys import COMMON, CONVERT, FETCH, WHERE
from tera_jax.llama.family.multimodal import MULTIMODAL
from tera_jax.llama.family.rope_keys import Lengths, Rope

_FULL, _SLIDING = "full_attention", "sliding_attention"
_REMEDY = "a key that does not change the model can be removed"
_KINDS = (*ARCHITECTURES, *MULTIMODAL)
_BESIDE = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
"""Keys of a decoder that stand beside its own in a multimodal file."""


def fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a :class:`tera_jax.llama.LlamaConfig` in the content of a ``config.json``.

    Args:
        raw: the parsed JSON of a model of :data:`FAMILIES`, of transformers 4 or 5. Of one of
            :data:`MULTIMODAL` the text decoder is read.

    Raises:
        ValueError: for a key that is unknown or missing, and for a value that is not implemented,
            of another type or out of its range.
    """
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in _KINDS:
        experts = (
            " (mixtures of experts are not read)"
            if isinstance(kind, str) and kind in MIXTURES
            else ""
        )
        raise ValueError(
            f"{WHERE} has model_type={json_files.shown(kind)}, which is not supported{experts}; "
            f"choose a checkpoint of one of {', '.join(_KINDS)}"
        )
    if kind in MULTIMODAL:
        return fields(_text_config(raw, kind))
    family = FAMILIES[kind]
    full = json_files.typed(WHERE, raw, family.keys, remedy=_REMEDY)
    if full["pruned_heads"]:
        raise ValueError(f"{WHERE} has pruned_heads, which are not supported; {CONVERT}")
    num_heads, head_dim = full["num_attention_heads"], full["head_dim"]
    if head_dim is None and full["hidden_size"] % num_heads:
        raise ValueError(
            f"{WHERE}: num_attention_heads={num_heads} does not divide hidden_size="
            f"{full['hidden_size']}; give head_dim"
        )
    head_dim = head_dim or full["hidden_size"] // num_heads
    eos, pad = full["eos_token_id"], full["pad_token_id"]
    read = {
        field: full[key]
        for key, names in family.read.items()
        for field in names
        if full[key] is not None
    }
    return {
        "vocab_size": full["vocab_size"],
        "hidden_size": full["hidden_size"],
        "intermediate_size": full["intermediate_size"],
        "num_layers": full["num_hidden_layers"],
        "num_heads": num_heads,
        "num_kv_heads": full["num_key_value_heads"] or num_heads,
        "head_dim": head_dim,
        "max_position_embeddings": full["max_position_embeddings"],
        "rms_norm_eps": full["rms_norm_eps"],
        "tie_word_embeddings": full["tie_word_embeddings"],
        "model_type": kind,
        "bos_token_id": full["bos_token_id"],
        "eos_token_id": tuple(eos) if isinstance(eos, list) else eos,
        "pad_token_id": None if pad == -1 else pad,
        **family.features,
        **read,
        **_layers(family, full),
        **_rope(family, full, raw, head_dim),
    }


def _text_config(raw: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The decoder's own file: what stands beside it counts where it says nothing."""
    row = MULTIMODAL[kind]
    table = {key: each for key, each in {**COMMON, **row.keys}.items() if key in raw} | {
        "text_config": row.keys["text_config"]
    }
    json_files.typed(WHERE, raw, table, remedy=_REMEDY)
    text = dict(raw["text_config"])
    if text.get("model_type", row.text) != row.text:
        raise ValueError(
            f"{WHERE} sets text_config.model_type to {json_files.shown(text['model_type'])}, not "
            f"{row.text}; {CONVERT}"
        )
    json_files.typed(WHERE, text, row.unread, others="ignore", within="text_config.")
    beside = {key: raw[key] for key in _BESIDE if raw.get(key) is not None}
    return beside | text | {"model_type": row.text}


def _layers(family: Family, full: Mapping[str, Any]) -> dict[str, Any]:
    """Windows, and layers without RoPE."""
    window, layers = full["sliding_window"], full["num_hidden_layers"]
    # Qwen writes a window into files whose use_sliding_window says that it is unused.
    if family.windows == "refused" and window is not None:
        raise ValueError(
            f"{WHERE}: sliding_window={window} has no meaning in a {full['model_type']} model; "
            "remove it, or use model_type='mistral'"
        )
    types = _types(full)
    found: dict[str, Any] = {"sliding_window": window if family.has_windows else None}
    if family.windows == "some" and window is not None:
        pattern = _pattern(family, full)
        made = [_SLIDING if (layer + 1) % pattern else _FULL for layer in range(layers)]
        sliding = tuple(each == _SLIDING for each in types or made)
        found["sliding_layers"] = None if all(sliding) else sliding
        found["sliding_window"] = window if any(sliding) else None
        found["sliding_layers"] = found["sliding_layers"] if any(sliding) else None
    elif types is not None:
        _require_alike(types, _FULL if found["sliding_window"] is None else _SLIDING)
    if family.nope:
        found["nope_layers"] = _nope(full)
    return found


def _types(full: Mapping[str, Any]) -> list[str] | None:
    types, layers = full["layer_types"], full["num_hidden_layers"]
    if types is None:
        return None
    if len(types) != layers:
        raise ValueError(
            f"{WHERE} has {len(types)} layer_types for num_hidden_layers={layers}; {FETCH}"
        )
    if not set(types) <= {_FULL, _SLIDING}:
        raise ValueError(
            f"{WHERE}: layer_types={json_files.shown(types)} is not supported, for all layers "
            f"must be {_FULL} or {_SLIDING}; {CONVERT}"
        )
    return list(types)


def _require_alike(types: list[str], kind: str) -> None:
    """Refuses windows on some of the layers, in a family of layers that are alike."""
    if set(types) != {kind}:
        raise ValueError(
            f"{WHERE}: layer_types={json_files.shown(types)} is not supported, for all layers "
            f"must be {kind}; {CONVERT}"
        )


def _pattern(family: Family, full: Mapping[str, Any]) -> int:
    given = [full.get(key) for key in ("sliding_window_pattern", "_sliding_window_pattern")]
    return next((pattern for pattern in given if pattern is not None), family.pattern)


def _nope(full: Mapping[str, Any]) -> tuple[bool, ...] | None:
    layers, listed = full["num_hidden_layers"], full["no_rope_layers"]
    if listed is None:
        interval = full["no_rope_layer_interval"]
        listed = [int((layer + 1) % interval != 0) for layer in range(layers)]
    if len(listed) != layers:
        raise ValueError(
            f"{WHERE} has {len(listed)} no_rope_layers for num_hidden_layers={layers}; {FETCH}"
        )
    without = tuple(not rotary for rotary in listed)
    return without if any(without) else None


def _rope(
    family: Family, full: Mapping[str, Any], raw: Mapping[str, Any], head_dim: int
) -> dict[str, Any]:
    lengths = Lengths(
        full["max_position_embeddings"],
        full.get("original_max_position_embeddings"),
        lambda share: int(head_dim * share),
    )
    if family.local_theta is None:
        rope = rope_keys.read_hf(raw, family.theta, lengths, family.partial)
        local = None
    else:
        rope, local = _two_ropes(family, full, raw, lengths)
    return {
        "rope_theta": rope.theta,
        "rope_scaling": rope.scaling,
        "rotary_share": rope.share,
        "local_rope_theta": local,
    }


def _two_ropes(
    family: Family, full: Mapping[str, Any], raw: Mapping[str, Any], lengths: Lengths
) -> tuple[Rope, float]:
    """That of layers without a window, and theta of those with one."""
    both = raw.get("rope_parameters") or {}
    if not both.keys() <= {_FULL, _SLIDING}:
        raise ValueError(
            f"config key rope_parameters={json_files.shown(both)} is not supported: it must have "
            f"the keys {_FULL} and {_SLIDING}; {CONVERT}"
        )
    whole = {**raw, "rope_parameters": both.get(_FULL)}
    rope = rope_keys.read_hf(whole, family.theta, lengths, family.partial)
    theta = full["rope_local_base_freq"]
    plain = Rope(family.local_theta if theta is None else theta)  # type: ignore[arg-type]
    local = plain
    if both.get(_SLIDING) is not None:
        key = f"rope_parameters.{_SLIDING}"
        local = rope_keys.read_dict(key, both[_SLIDING], plain, lengths, family.partial)
    if local.scaling is not None or theta not in (None, local.theta):
        raise ValueError(
            f"{WHERE}: rope_local_base_freq={theta!r} and {_SLIDING} of rope_parameters="
            f"{json_files.shown(both)} disagree, or stretch the layers with a window; {CONVERT}"
        )
    return rope, local.theta
