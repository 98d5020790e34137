"""Small random checkpoints of every family, made and judged by transformers."""

import functools
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
import torch
import transformers

from tera_jax.llama import load_pretrained

TINY = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# The three regimes of llama3's scaling all occur among the 8 frequencies.
SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama-2": ("Llama", {"num_key_value_heads": 4}),
    "llama-3": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "llama-3.1": (
        "Llama",
        {"rope_parameters": {"rope_theta": 1e4, **SCALING}, "tie_word_embeddings": True},
    ),
    "tinyllama": (
        "Llama",
        {"num_attention_heads": 8, "num_hidden_layers": 3, "rms_norm_eps": 1e-5},
    ),
    "mistral": ("Mistral", {"sliding_window": 8}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
}


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    """Makes the checkpoint of a family once: ``tiny_path(family) -> directory``."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            kind, changes = FAMILIES[family]
            config = getattr(transformers, f"{kind}Config")(**(TINY | changes))
            torch.manual_seed(list(FAMILIES).index(family))
            model = getattr(transformers, f"{kind}ForCausalLM")(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim == 1:  # norms start at one and biases at zero
                        parameter.add_(0.3 * torch.randn_like(parameter))
            made[family] = tmp_path_factory.mktemp(family)
            model.save_pretrained(made[family])
        return made[family]

    return make


@pytest.fixture(scope="session", params=FAMILIES)
def tiny(request, tiny_path):
    """Path, model and params of every family in turn."""
    path = tiny_path(request.param)
    return (path, *load_pretrained(path))


@pytest.fixture(scope="session")
def load_torch():
    """``load_torch(path) -> model`` in transformers, float32 and eager attention."""

    def load(path: Path):
        kwargs = {"dtype": torch.float32, "attn_implementation": "eager"}
        if path.is_file():
            path, kwargs["gguf_file"] = path.parent, path.name
        # transformers asks for accelerate before it reads GGUF, but without a device map makes no
        # use of it.
        with mock.patch("transformers.modeling_utils.is_accelerate_available", return_value=True):
            return transformers.AutoModelForCausalLM.from_pretrained(path, **kwargs).eval()

    return load


@pytest.fixture(scope="session")
def smollm2(smollm2_path):
    return load_pretrained(smollm2_path)


@pytest.fixture(scope="session")
def torch_smollm2(load_torch, smollm2_path):
    return load_torch(smollm2_path)


@pytest.fixture
def tokens_BL():  # noqa: N802
    return np.random.default_rng(0).integers(3, 128, (2, 24)).astype(np.int32)


@pytest.fixture
def apply():
    """``apply(model, params, tokens, ...) -> logits`` as numpy, traced once in a test."""

    @functools.partial(jax.jit, static_argnums=0)
    def logits(model, params, *args, **kwargs):
        return model.apply({"params": params}, *args, **kwargs)[0]

    return lambda *args, **kwargs: np.asarray(logits(*args, **kwargs))


@pytest.fixture(scope="session")
def assert_same():
    """``assert_same(tree, tree)``: equal dtypes and equal bits."""

    def same(a, b):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

    return lambda found, expected: jax.tree.map(same, found, expected)
