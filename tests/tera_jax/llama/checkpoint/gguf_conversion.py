"""Hugging Face checkpoints as GGUF files: tensors by the package gguf, the rest as llama.cpp does.

The facts are those of llama.cpp's converter: the keys of each architecture, q and k of three of
them with the entries of a pair beside each other, and 1 added to the scales of Gemma's norms.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

_ARCHITECTURES = {"gemma3_text": "gemma3"}
_INTERLEAVED = ("llama", "granite", "smollm3")
_OFFSET = ("gemma", "gemma2", "gemma3")
_NAMES = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}


def convert(
    directory: Path,
    path: Path,
    changes: Mapping[str, Any] | None = None,
    tokenizer: Callable[[gguf.GGUFWriter], None] | None = None,
    **writer: Any,
) -> Path:
    """Write the checkpoint of a directory to a GGUF file in float32.

    Args:
        directory: of the checkpoint.
        path: of the file.
        changes: metadata below the architecture that are added or replaced; None leaves one out.
        tokenizer: adds its metadata, in place of three ids.
        writer: arguments of ``gguf.GGUFWriter``, such as ``split_max_tensors``.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    config = model.config
    arch = _ARCHITECTURES.get(config.model_type, config.model_type)
    out = gguf.GGUFWriter(path, arch, **writer)
    for key, value in (metadata(config) | dict(changes or {})).items():
        if value is not None:
            add(out, f"{arch}.{key}", value)
    (tokenizer or _ids)(out)
    names = gguf.get_tensor_name_map(_NAMES[arch], config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        data = tensor.numpy()
        part = name.split(".")[-2]
        if arch in _INTERLEAVED and part in heads:
            pairs = data.reshape(heads[part], 2, -1, *data.shape[1:])
            data = pairs.swapaxes(1, 2).reshape(data.shape)
        if arch in _OFFSET and name.endswith("norm.weight"):
            data = data + 1
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        out.add_tensor(theirs, np.ascontiguousarray(data))
    for name, factors in frequency_factors(config).items():
        out.add_tensor(name, np.asarray(factors, np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def _ids(writer: gguf.GGUFWriter) -> None:
    for name, id_ in (("bos", 1), ("eos", 2), ("pad", 0)):
        getattr(writer, f"add_{name}_token_id")(id_)


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a value under the type that llama.cpp has for it."""
    kinds = {str: "string", bool: "bool", int: "uint32", float: "float32", list: "array"}
    getattr(writer, f"add_{kinds[type(value)]}")(key, value)


def metadata(config: Any) -> dict[str, Any]:
    """Below the architecture, of a config of transformers."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    both = config.rope_parameters
    rope = both.get("full_attention", both)
    found: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(rope["rope_theta"]),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
    }
    kind = config.model_type
    own = {
        "granite": {
            "attention.scale": "attention_multiplier",
            "embedding_scale": "embedding_multiplier",
            "residual_scale": "residual_multiplier",
            "logit_scale": "logits_scaling",
        },
        "gemma2": {
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
            "attention.sliding_window": "sliding_window",
        },
        "gemma3_text": {
            "final_logit_softcapping": "final_logit_softcapping",
            "attention.sliding_window": "sliding_window",
        },
        "phi3": {"attention.sliding_window": "sliding_window"},
    }.get(kind, {})
    found |= {key: getattr(config, name) for key, name in own.items()}
    if kind == "phi3":
        found["attention.sliding_window"] = config.sliding_window or 0
    if kind in ("llama", "granite", "smollm3", "phi3"):
        found["rope.dimension_count"] = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    if kind == "gemma3_text":
        found["rope.freq_base_swa"] = float(both["sliding_attention"]["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        found |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": rope["factor"]}
    original = rope.get("original_max_position_embeddings")
    if rope["rope_type"] in ("yarn", "longrope"):
        found["rope.scaling.original_context_length"] = original
    if rope["rope_type"] == "yarn":
        betas = {f"rope.scaling.yarn_{key}": rope.get(key) for key in ("beta_fast", "beta_slow")}
        found |= {key: value for key, value in betas.items() if value is not None}
    if rope["rope_type"] == "longrope":
        stretch = config.max_position_embeddings / original
        found["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(stretch) / math.log(original))
    return found


def frequency_factors(config: Any) -> dict[str, list[float]]:
    """The tensors that hold LongRoPE's factors."""
    rope = config.rope_parameters
    return {
        f"rope_factors_{kind}.weight": rope[f"{kind}_factor"]
        for kind in ("long", "short")
        if f"{kind}_factor" in rope
    }
