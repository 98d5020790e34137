"""What PEFT keeps of prompt tuning and P-tuning: the finished prompt."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.factory import make
from tera_jax.adapters.targets import get, parameter
from tera_jax.io.peft.files import ARRAYS, CONFIG
from tera_jax.methods import TargetLayer
from tera_jax.methods.prompt import PromptTuning, encode
from tera_jax.ops.numerics import acc_dtype

PROMPT = "prompt_embeddings"
"""The name of the one array. Prefix tuning and CPT have one of that name and another meaning."""


def load(
    path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], params: Any
) -> tuple[Adapter, dict[str, Any]]:
    """The adapter that the two files in ``path`` hold, and its variables on a base."""
    if set(arrays) != {PROMPT}:
        raise ValueError(
            f"{path / ARRAYS} has arrays {sorted(arrays)[:3]}, but {config['peft_type']} keeps "
            f"{PROMPT} alone; save the adapter again"
        )
    prompt_PD = arrays[PROMPT]
    embedding = TargetLayer(("embed_tokens",), ())
    embedding_VD = parameter(params, embedding, "embedding")
    width = embedding_VD.shape[1]
    if config["token_dim"] not in (None, width):
        raise ValueError(
            f"{path / CONFIG} sets token_dim to {config['token_dim']}, but this base has {width}; "
            "load the base that it was made for"
        )
    expected = (config["num_virtual_tokens"], width)
    if prompt_PD.shape != expected:
        raise ValueError(
            f"{PROMPT} in {path / ARRAYS} has shape {prompt_PD.shape}, not {expected}; save the "
            "adapter again, or load the base that it was made for"
        )
    layer = dataclasses.replace(embedding, kernel_shape=embedding_VD.shape)
    adapter = make("prompt", PromptTuning(num_virtual_tokens=expected[0]), (layer,))
    prompt = jnp.asarray(prompt_PD, acc_dtype(embedding_VD.dtype))
    d = {"embed_tokens": {"prompt": {"embedding": prompt}}}
    return adapter, {"params": params, "frozen": {}, "d": d}


def files(
    adapter: Adapter, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`.save` writes: the configuration and the arrays by PEFT's names."""
    (layer,) = adapter.layers
    d = get(variables["d"], (*layer.path, adapter.name))
    prompt_PD = np.asarray(d["embedding"] if adapter.name == "prompt" else encode(d))
    config = {
        "num_virtual_tokens": prompt_PD.shape[0],
        "token_dim": prompt_PD.shape[1],
        "num_transformer_submodules": 1,
    }
    if adapter.name == "prompt":
        return {"peft_type": "PROMPT_TUNING", **config}, {PROMPT: prompt_PD}
    hidden = d["mlp"][0]["kernel"].shape[1]
    return {"peft_type": "P_TUNING", "encoder_hidden_size": hidden, **config}, {PROMPT: prompt_PD}
