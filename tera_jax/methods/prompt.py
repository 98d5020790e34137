"""Prompt tuning and P-tuning: trained embeddings of virtual tokens before the prompt.

Sources: Lester, Al-Rfou and Constant, "The Power of Scale for Parameter-Efficient Prompt Tuning",
EMNLP 2021; Liu et al., "GPT Understands, Too", 2021. Formulas and initial values as in PEFT 0.21.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tera_jax.methods.base import Site, check_choices


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """Prompt tuning.

    Attributes:
        num_virtual_tokens: P.
        init: N(0, 1) as in PEFT (``random``), or the embeddings of P tokens of the vocabulary
            drawn at random (``vocabulary``).
    """

    num_virtual_tokens: int = 20
    init: Literal["random", "vocabulary"] = "random"

    def __post_init__(self) -> None:
        check_choices(self)
        _check_tokens(self.num_virtual_tokens)


@dataclasses.dataclass(frozen=True)
class PTuningConfig:
    """P-tuning: the embeddings pass through an MLP of three linear layers, all trained.

    Attributes:
        num_virtual_tokens: P.
        hidden_size: of the MLP; the width of the model when None.
    """

    num_virtual_tokens: int = 20
    hidden_size: int | None = None

    def __post_init__(self) -> None:
        _check_tokens(self.num_virtual_tokens)
        if self.hidden_size is not None and self.hidden_size < 1:
            raise ValueError(f"hidden_size {self.hidden_size}; it must be at least 1")


def _check_tokens(number: int) -> None:
    if number < 1:
        raise ValueError(f"num_virtual_tokens {number}; it must be at least 1")


class PromptMethod(NamedTuple):
    """A trained prompt: pure functions."""

    num_virtual_tokens: int
    init_d: Callable[..., Any]
    """(key, embedding_VD) -> trainable arrays, float32."""
    prompt: Callable[..., Any]
    """(d) -> the embeddings (P, D) of the virtual tokens, float32."""


def method(config: PromptConfig | PTuningConfig, sites: tuple[Site, ...]) -> PromptMethod:
    """Prompt tuning or P-tuning as a row of the methods' table."""
    del sites
    if isinstance(config, PromptConfig):
        return PromptMethod(
            config.num_virtual_tokens,
            lambda key, embedding_VD: {"embedding": _init_prompt(key, embedding_VD, config)},
            lambda d: d["embedding"],
        )
    return PromptMethod(
        config.num_virtual_tokens,
        lambda key, embedding_VD: _init_p_tuning(key, embedding_VD.shape[1], config),
        encode,
    )


def _init_prompt(
    key: Key[Array, ""], embedding_VD: Float[Array, "V D"], config: PromptConfig
) -> Float[Array, "P D"]:
    vocabulary, width = embedding_VD.shape
    if config.init == "vocabulary":
        tokens_P = jax.random.randint(key, (config.num_virtual_tokens,), 0, vocabulary)
        return embedding_VD[tokens_P].astype(jnp.float32)
    return jax.random.normal(key, (config.num_virtual_tokens, width), jnp.float32)


def _init_p_tuning(key: Key[Array, ""], width: int, config: PTuningConfig) -> dict[str, Any]:
    hidden = config.hidden_size or width
    keys = jax.random.split(key, 4)
    return {
        "embedding": jax.random.normal(keys[0], (config.num_virtual_tokens, width), jnp.float32),
        "mlp": [
            _init_linear(keys[1], width, hidden),
            _init_linear(keys[2], hidden, hidden),
            _init_linear(keys[3], hidden, width),
        ],
    }


def _init_linear(key: Key[Array, ""], fan_in: int, fan_out: int) -> dict[str, Array]:
    """Kernel (in, out) and bias as ``torch.nn.Linear`` draws them: U(-1/sqrt(in), 1/sqrt(in))."""
    limit = 1 / math.sqrt(fan_in)
    kernel_key, bias_key = jax.random.split(key)
    return {
        "kernel": jax.random.uniform(kernel_key, (fan_in, fan_out), jnp.float32, -limit, limit),
        "bias": jax.random.uniform(bias_key, (fan_out,), jnp.float32, -limit, limit),
    }


def encode(d: dict[str, Any]) -> Float[Array, "P D"]:
    """P-tuning's prompt: Linear, ReLU, Linear, ReLU, Linear of the embeddings."""
    x = d["embedding"]
    for number, layer in enumerate(d["mlp"]):
        x = x if number == 0 else jax.nn.relu(x)
        x = jnp.einsum("pi,io->po", x, layer["kernel"]) + layer["bias"][None, :]
    return x
