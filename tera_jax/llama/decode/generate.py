"""Greedy decoding and sampling with a cache."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tera_jax.llama.decode.beam import beam_search
from tera_jax.llama.decode.config import GenerationConfig
from tera_jax.llama.decode.steps import Steps
from tera_jax.llama.model import Llama


def left_pad(
    prompts: Sequence[Sequence[int]], pad_id: int, multiple: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Aligns prompts on the right, in a bucket of few lengths so that few shapes are compiled.

    Args:
        prompts: token ids, at least one prompt and none empty.
        pad_id: fills the left.
        multiple: the length is the longest prompt's, rounded up to a multiple of this.

    Returns:
        ``(tokens_BL, segment_ids_BL)``, int32; the segment is 0 at padding and 1 at tokens.

    Raises:
        ValueError: for no prompts or an empty one.
    """
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or min(lengths) == 0:
        raise ValueError(f"prompts must have at least one token each, not lengths {lengths}")
    length = -(-max(lengths) // multiple) * multiple
    tokens_BL = np.full((len(prompts), length), pad_id, np.int32)
    segment_ids_BL = np.zeros((len(prompts), length), np.int32)
    for row, prompt in enumerate(prompts):
        tokens_BL[row, length - len(prompt) :] = prompt
        segment_ids_BL[row, length - len(prompt) :] = 1
    return tokens_BL, segment_ids_BL


def generate(
    model: Llama,
    variables: Any,
    tokens_BL: jax.Array,
    segment_ids_BL: jax.Array,
    decoding: GenerationConfig,
    *,
    eos_id: int | Sequence[int] | None,
    pad_id: int,
    key_B: jax.Array | None = None,
    apply: Callable[..., Any] | None = None,
) -> jax.Array:
    """Answers to prompts; ends with the row that ends last.

    To be called under ``jax.jit`` with all but ``variables`` and the arrays static.

    Args:
        model: gives the sizes and the dtype of the cache, and says whether that is split.
        variables: all collections that ``apply`` reads, such as ``{"params": ...}``.
        tokens_BL: int32 prompts, padded on the left (see :func:`left_pad`).
        segment_ids_BL: int32, 0 at padding and 1 at tokens.
        decoding: how tokens are chosen, and how many.
        eos_id: the token or tokens that end a row; None for none.
        pad_id: fills a row after its end.
        key_B: a key for each row, for sampling: a row's draws do not depend on its neighbours.
        apply: ``model.apply`` or a wrapper of it, called as
            ``apply(variables, ..., method="hidden")`` and ``method="logits"``.

    Returns:
        ``tokens_BT`` int32: the new tokens, the one that ends a row included.

    Raises:
        ValueError: for sampling without keys.
    """
    if decoding.do_sample and key_B is None:
        raise ValueError("do_sample needs key_B, a key for each row")
    apply = model.apply if apply is None else apply
    eos_ids = (eos_id,) if isinstance(eos_id, int) else tuple(eos_id or ())
    tokens_BL, segment_ids_BL = jnp.asarray(tokens_BL), jnp.asarray(segment_ids_BL)
    if decoding.num_beams > 1:
        bound = functools.partial(apply, variables)
        ends = jnp.asarray(eos_ids, jnp.int32)
        return beam_search(model, bound, tokens_BL, segment_ids_BL, decoding, ends, pad_id)
    steps = Steps(model, apply, decoding, eos_ids, pad_id)
    state = steps.prefill(variables, tokens_BL, segment_ids_BL, key_B)
    state = lax.while_loop(
        steps.unfinished, lambda state: steps.step(variables, state, key_B), state
    )
    return state.text_BS[:, tokens_BL.shape[1] :]
