"""Models by their shapes alone; well-known ones as the keys of their Hugging Face configs."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tera_jax import json_files
from tera_jax.adapters.base import Adapter
from tera_jax.adapters.factory import select
from tera_jax.adapters.targets import ModelLayers, model_layers
from tera_jax.llama import Llama, LlamaConfig, load_config
from tera_jax.methods import method_class

from ..config.typed import build

_LLAMA = {"model_type": "llama", "rms_norm_eps": 1e-5}

MODELS: dict[str, dict[str, Any]] = {
    "llama-2-7b": {
        **_LLAMA,
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    "llama-2-13b": {
        **_LLAMA,
        "vocab_size": 32000,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    "llama-3-8b": {
        **_LLAMA,
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
    "llama-3-70b": {
        **_LLAMA,
        "vocab_size": 128256,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
    "llama-3.1-405b": {
        **_LLAMA,
        "vocab_size": 128256,
        "hidden_size": 16384,
        "intermediate_size": 53248,
        "num_hidden_layers": 126,
        "num_attention_heads": 128,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": False,
    },
    "smollm2-135m": {
        **_LLAMA,
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
    "gemma-2-9b": {
        "model_type": "gemma2",
        "rms_norm_eps": 1e-6,
        "vocab_size": 256000,
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "num_hidden_layers": 42,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma-3-12b": {
        "model_type": "gemma3_text",
        "rms_norm_eps": 1e-6,
        "vocab_size": 262208,
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "query_pre_attn_scalar": 256,
        "sliding_window": 1024,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "gemma-3-27b": {
        "model_type": "gemma3_text",
        "rms_norm_eps": 1e-6,
        "vocab_size": 262208,
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "query_pre_attn_scalar": 168,
        "sliding_window": 1024,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "phi-4": {
        "model_type": "phi3",
        "rms_norm_eps": 1e-5,
        "vocab_size": 100352,
        "hidden_size": 5120,
        "intermediate_size": 17920,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 10,
        "max_position_embeddings": 16384,
        "rope_theta": 250000.0,
        "tie_word_embeddings": False,
        "eos_token_id": 100265,
        "pad_token_id": 100349,
    },
    "olmo-2-13b": {
        "model_type": "olmo2",
        "rms_norm_eps": 1e-6,
        "vocab_size": 100352,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "max_position_embeddings": 4096,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "eos_token_id": 100257,
    },
    "qwen2.5-7b": {
        "model_type": "qwen2",
        "rms_norm_eps": 1e-6,
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
    },
    "qwen2.5-72b": {
        "model_type": "qwen2",
        "rms_norm_eps": 1e-5,
        "vocab_size": 152064,
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
    },
    "mistral-nemo-12b": {
        "model_type": "mistral",
        "rms_norm_eps": 1e-5,
        "vocab_size": 131072,
        "hidden_size": 5120,
        "intermediate_size": 14336,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 128000,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
}

_TOKENS = jax.ShapeDtypeStruct((1, 2), jnp.int32)


class Parts(NamedTuple):
    """A method on a model. The three collections are abstract; the base is in bfloat16."""

    config: LlamaConfig
    adapter: Adapter
    params: Any
    frozen: Any
    d: Any


def parts(
    model: str, method: str, settings: Mapping[str, Any], targets: Sequence[str] | None = None
) -> Parts:
    """The collections of a method on a model, of which nothing is computed.

    Args:
        model: as :func:`sizes` takes it.
        method: a row of ``tera_jax.methods.TABLE``.
        settings: of its configuration.
        targets: patterns of layers; those of the method when None.

    Raises:
        ValueError: for an unknown model, method, setting or target.
    """
    config, params, layers = _base(model)
    configured = build(method_class(method), settings, "method")
    adapter = select(method, configured, layers, targets)
    frozen = jax.eval_shape(adapter.init_frozen, params)
    return Parts(config, adapter, params, frozen, adapter.abstract_d(params))


def sizes(model: str) -> tuple[LlamaConfig, ModelLayers]:
    """The configuration of a model and its layers, without weights.

    Args:
        model: a name of :data:`MODELS`, a directory with a ``config.json``, or a GGUF file.

    Raises:
        ValueError: for an unknown model.
    """
    config, _, layers = _base(model)
    return config, layers


@functools.cache
def _base(model: str) -> tuple[LlamaConfig, Any, ModelLayers]:
    path = Path(model)
    if model in MODELS:
        config = LlamaConfig.from_hf(MODELS[model])
    elif (path / "config.json").is_file():
        tree = json_files.read(path / "config.json", integer_bits=128)
        config = LlamaConfig.from_hf(tree)
    elif path.is_file():
        config = load_config(path)
    else:
        raise ValueError(
            f"model {model!r}; choose one of {sorted(MODELS)}, a directory with a config.json, or "
            "a GGUF file"
        )
    llama = Llama(config, dtype=jnp.bfloat16)
    params = jax.eval_shape(llama.init, jax.random.key(0), _TOKENS)["params"]
    return llama.config, params, model_layers(llama, _TOKENS)
