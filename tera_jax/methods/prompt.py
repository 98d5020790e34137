"""Prompt tuning and P-tuning: trained embeddings of virtual tokens before the prompt.

Sources: Lester, Al-Rfou and Constant, "The Power of Scale for Parameter-Efficient Prompt Tuning",
EMNLP 2021; Liu et al., "GPT Understands, Too", 2021. Formulas and initial values as in PEFT 0.21.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tera_jax.methods.base import Arrays, KeyArray, PromptMethod
from tera_jax.methods.limits import check_at_least


@dataclasses.dataclass(frozen=True)
class PromptTuning(PromptMethod):
    """Prompt tuning: the embeddings of virtual tokens are trained.

    Attributes:
        num_virtual_tokens: P, the virtual tokens before each prompt.
        init: N(0, 1) as in PEFT (``random``), or the embeddings of P tokens of the vocabulary
            drawn at random (``vocabulary``).
    """

    init: Literal["random", "vocabulary"] = "random"

    def init_d(self, key: KeyArray, embedding_VD: Float[Array, "V D"]) -> Arrays:
        """The embeddings themselves."""
        return {"embedding": _init_prompt(key, embedding_VD, self)}

    def prompt(self, d: dict[str, Array]) -> Float[Array, "P D"]:
        """As trained."""
        return d["embedding"]


@dataclasses.dataclass(frozen=True)
class PTuning(PromptMethod):
    """P-tuning: the embeddings pass through an MLP of three linear layers, all trained.

    Attributes:
        num_virtual_tokens: P, the virtual tokens before each prompt.
        hidden_size: of the MLP; the width of the model when None.
    """

    hidden_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, hidden_size=self.hidden_size)

    def init_d(self, key: KeyArray, embedding_VD: Float[Array, "V D"]) -> dict[str, Any]:
        """The embeddings, and the three layers of the MLP."""
        return _init_p_tuning(key, embedding_VD.shape[1], self)

    def prompt(self, d: dict[str, Any]) -> Float[Array, "P D"]:
        """What the MLP makes of the embeddings."""
        return encode(d)


def _init_prompt(
    key: KeyArray, embedding_VD: Float[Array, "V D"], config: PromptTuning
) -> Float[Array, "P D"]:
    vocabulary, width = embedding_VD.shape
    if config.init == "vocabulary":
        tokens_P = jax.random.randint(key, (config.num_virtual_tokens,), 0, vocabulary)
        return embedding_VD[tokens_P].astype(jnp.float32)
    return jax.random.normal(key, (config.num_virtual_tokens, width), jnp.float32)


def _init_p_tuning(key: KeyArray, width: int, config: PTuning) -> dict[str, Any]:
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


def _init_linear(key: KeyArray, fan_in: int, fan_out: int) -> Arrays:
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
