"""A JAX peer on the same shapes: LoRA by qwix on the Llama of tunix.

    pip install google-tunix qwix
    python -m benchmarks.speed --model=llama-2-7b --anchors tunix tunix:none --cases frozen lora

The base has random weights in bfloat16, and LoRA of rank 32 is on the query and value projections.
A step is the mean loss over all tokens but the first, its gradient, and AdamW, in one jitted
program. ``tunix`` rematerialises the two blocks of a layer, ``tunix:decoder`` whole layers, and
``tunix:none`` nothing. Attention is that of tunix, which makes the scores.
"""

import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import qwix
from flax import nnx
from tunix.models.llama3 import model as peer

from benchmarks import rounds
from tera_jax.llama import LlamaConfig

RANK = 32
REMAT = ("block", "decoder", "none")
_WARMUP = 3


class Row(NamedTuple):
    """What was measured; ``note`` says why there are no numbers."""

    tokens_per_second: float = math.nan
    step_seconds: float = math.nan
    peak_bytes: int = 0
    compile_seconds: float = math.nan
    first_loss: float = math.nan
    last_loss: float = math.nan
    trained: int = 0
    note: str = ""


def config(shape: dict[str, Any], remat: str) -> peer.ModelConfig:
    """Tunix's configuration of a Llama.

    Args:
        shape: as a ``config.json`` has it.
        remat: of :data:`REMAT`.

    Raises:
        ValueError: for another rematerialisation.
    """
    if remat not in REMAT:
        raise ValueError(f"tunix:{remat} is none of {', '.join(f'tunix:{x}' for x in REMAT)}")
    own = LlamaConfig.from_hf(shape)
    return peer.ModelConfig(
        num_layers=own.num_layers,
        vocab_size=own.vocab_size,
        embed_dim=own.hidden_size,
        hidden_dim=shape["intermediate_size"],
        num_heads=shape["num_attention_heads"],
        head_dim=own.hidden_size // shape["num_attention_heads"],
        num_kv_heads=shape["num_key_value_heads"],
        rope_theta=10_000,
        norm_eps=shape["rms_norm_eps"],
        remat_config=peer.RematConfig[remat.upper()],
    )


def make(sizes: peer.ModelConfig, dtype: Any) -> nnx.Module:
    """The model with random weights and LoRA; its MLPs would start at zero, which saves power."""
    graph, shapes = nnx.split(nnx.eval_shape(lambda: peer.Llama3(sizes, rngs=nnx.Rngs(0))))
    leaves, tree = jax.tree.flatten(shapes)

    @jax.jit
    def fill() -> list[jax.Array]:
        keys = jax.random.split(jax.random.key(0), len(leaves))
        return [
            0.02 * jax.random.normal(key, leaf.shape, dtype)
            if leaf.ndim > 1
            else jnp.ones(leaf.shape, dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ]

    model = nnx.merge(graph, jax.tree.unflatten(tree, fill()))
    provider = qwix.LoraProvider(module_path=".*q_proj|.*v_proj", rank=RANK, alpha=2.0 * RANK)
    found = qwix.apply_lora_to_model(
        model, provider, rngs=nnx.Rngs(1), **peer.Llama3.get_model_input(model)
    )
    return found


def measure(shape: dict[str, Any], tokens_BL: np.ndarray, remat: str, steps: int) -> Row:
    """Compile, check and time a step; one that does not fit is a note.

    Args:
        shape: as a ``config.json`` has it.
        tokens_BL: int32, without padding.
        remat: of :data:`REMAT`.
        steps: of a round.

    Raises:
        ValueError: when the loss does not fall.
    """
    dtype = jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32
    split: Any = nnx.split(make(config(shape, remat), dtype), nnx.LoRAParam, ...)
    graph, lora, rest = split
    optimizer = optax.adamw(1e-3)
    length = tokens_BL.shape[1]
    positions_BL = jnp.broadcast_to(jnp.arange(length), tokens_BL.shape)
    mask_BLL = jnp.broadcast_to(jnp.tri(length, dtype=bool), (len(tokens_BL), length, length))

    def loss(model: Any, tokens_BL: jax.Array) -> jax.Array:
        logits_BLV, _ = model(tokens_BL, positions_BL, None, mask_BLL)
        logits_BLV = logits_BLV[:, :-1].astype(jnp.float32)
        labels_BL = tokens_BL[:, 1:]
        return optax.softmax_cross_entropy_with_integer_labels(logits_BLV, labels_BL).mean()

    gradient = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, nnx.LoRAParam))

    def step(lora: Any, state: Any, rest: Any, tokens_BL: jax.Array) -> Any:
        value, gradients = gradient(nnx.merge(graph, lora, rest), tokens_BL)
        updates, state = optimizer.update(gradients, state, lora)
        return optax.apply_updates(lora, updates), state, value

    state = jax.jit(optimizer.init)(lora)
    given = jax.device_put(tokens_BL)
    trained = sum(leaf.size for leaf in jax.tree.leaves(lora))
    start = time.perf_counter()
    try:
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(lora, state, rest, given).compile()
        compile_seconds = time.perf_counter() - start
        losses: list[jax.Array] = []

        def advance(count: int) -> float:
            nonlocal lora, state
            start = time.perf_counter()
            for _ in range(count):
                lora, state, value = compiled(lora, state, rest, given)
                losses.append(value)
            jax.block_until_ready(lora)
            return time.perf_counter() - start

        advance(_WARMUP)
        found = rounds.timed(advance, [tokens_BL.size], _WARMUP, steps)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Row(note="out of memory")
    first, *_, last = map(float, jax.device_get(losses))
    if not last < first:
        raise ValueError(f"tunix {remat}: the loss goes from {first} to {last}")
    plan: Any = compiled.memory_analysis()
    peak = plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes
    return Row(
        found.tokens_per_second,
        found.step_seconds,
        peak - plan.alias_size_in_bytes,
        compile_seconds,
        first,
        last,
        trained,
    )
