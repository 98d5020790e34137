"""Tiny torch models, and PEFT adapters of them on disk."""

import json

import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from tera_jax.llama import load_pretrained

TOKENS = np.random.default_rng(0).integers(3, 96, (3, 9))
SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attn_implementation": "eager",
    "initializer_range": 0.15,
}
PREFIX = "base_model.model."
QV = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
SAVED_LAYERS = pytest.mark.filterwarnings(
    "ignore:Setting `save_embedding_layers` to `True`:UserWarning",
    "ignore:Model has `tie_word_embeddings=True`:UserWarning",
    "ignore:Model with `tie_word_embeddings=True`:UserWarning",
    "ignore:.*eva:UserWarning",
)
NORMS = pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
"""PEFT's LN-tuning warns of every norm."""


def write_bases(root):
    """Directories of an untied and a tied base, by whether they are tied."""
    found = {}
    for tied in (False, True):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**SIZES, tie_word_embeddings=tied)
        found[tied] = root / f"tied-{tied}"
        transformers.LlamaForCausalLM(config).save_pretrained(found[tied])
    return found


def torch_base(path):
    config = transformers.AutoConfig.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.get_default_dtype(), attn_implementation="eager"
    )
    arrays = load_file(path / "model.safetensors")
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    model.load_state_dict(tensors, strict=not config.tie_word_embeddings)
    model.tie_weights()
    model.name_or_path = str(path)
    return model


def torch_logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS)).logits.numpy()


def made(base, config, path, scale=0.05, **save):
    """PEFT's model with perturbed trained arrays, saved."""
    torch.manual_seed(1)
    model = peft.get_peft_model(torch_base(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn_like(parameter)
    model.save_pretrained(path, **save)
    return model


def our_base(path):
    """In the type that the reference has: float64 under ``in_float64``."""
    return load_pretrained(path, dtype=jnp.asarray(1.0).dtype)


def write(path, **change):
    """Change keys of a configuration; None as the Ellipsis takes one out."""
    file = path / "adapter_config.json"
    config = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
