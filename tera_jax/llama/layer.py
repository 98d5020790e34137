"""One decoder layer: attention and a gated MLP, with their norms."""

from typing import Any

import flax.linen as nn
import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from tera_jax import sharding
from tera_jax.llama.attention import Attention, at_positions
from tera_jax.llama.config import LlamaConfig
from tera_jax.ops.rms_norm import RMSNorm

RESIDUAL = "residual"
"""The name under which a rematerialisation policy finds the residual stream after attention."""


_ACTIVATIONS = {"silu": nn.silu, "gelu_tanh": nn.gelu}


class MLP(nn.Module):
    """``down(activation(gate(x)) * up(x))``."""

    config: LlamaConfig
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """Works on each token alone."""
        config = self.config
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        types["use_bias"] = config.mlp_bias
        gate_BLF = nn.Dense(config.intermediate_size, name="gate_proj", **types)(x_BLD)
        up_BLF = nn.Dense(config.intermediate_size, name="up_proj", **types)(x_BLD)
        down = nn.Dense(config.hidden_size, name="down_proj", **types)
        return down(_ACTIVATIONS[config.activation](gate_BLF) * up_BLF)


class Layer(nn.Module):
    """Attention and MLP, each on a copy of the residual stream, with norms before or after them.

    With norms on both sides ``post_attention_layernorm`` is the one after attention, as in the
    files; with norms before alone it is the one before the MLP.
    """

    config: LlamaConfig
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, carry: tuple[jax.Array, Any], *where: Any) -> tuple[Any, None]:
        """The body of the scan: ``where`` is as in :class:`Attention`.

        The cache is carried with the residual stream, so that it is written in place.
        """
        x_BLD, cache = carry
        config = self.config
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        before, after = config.norms != "post", config.norms != "pre"

        def norm(name: str) -> RMSNorm:
            return RMSNorm(config.rms_norm_eps, offset=config.norm_offset, name=name, **types)

        target_positions_BT = where[-1]
        if before:
            input_norm = norm("input_layernorm")
            x_BLD, normed_BLD = input_norm(x_BLD)
        else:
            normed_BLD = x_BLD
        asking_BLD = normed_BLD
        if target_positions_BT is not None:
            x_BLD = asking_BLD = at_positions(x_BLD, target_positions_BT)
            if before:
                x_BLD, asking_BLD = input_norm(x_BLD)
        y_BLD, cache = Attention(config, name="self_attn", **types)(
            asking_BLD, normed_BLD, cache, *where
        )
        if after:
            _, y_BLD = norm("post_attention_layernorm")(y_BLD)
        x_BLD = checkpoint_name(x_BLD + self._scaled(y_BLD), RESIDUAL)
        if before:
            name = "pre_feedforward_layernorm" if after else "post_attention_layernorm"
            x_BLD, normed_BLD = norm(name)(x_BLD)
        else:
            normed_BLD = x_BLD
        y_BLD = MLP(config, name="mlp", **types)(normed_BLD)
        if after:
            _, y_BLD = norm("post_feedforward_layernorm")(y_BLD)
        x_BLD = x_BLD + self._scaled(y_BLD)
        return (split_rows(x_BLD), cache), None

    def _scaled(self, y_BLD: jax.Array) -> jax.Array:
        """What is added to the residual stream."""
        multiplier = self.config.residual_multiplier
        return y_BLD if multiplier == 1 else y_BLD * multiplier


def split_rows(x_BLD: jax.Array) -> jax.Array:
    """Keeps the batch split by rows, under ``jax.set_mesh`` with the axes of ``make_mesh``.

    Left alone, XLA may follow the layout of a kernel and gather the batch.
    """
    if not set(sharding.BATCH) <= set(jax.sharding.get_abstract_mesh().axis_names):
        return x_BLD
    return lax.with_sharding_constraint(x_BLD, P(sharding.BATCH, None, None))
