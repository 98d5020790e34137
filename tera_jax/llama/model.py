"""The decoder of Llama, Mistral, Qwen2 and Qwen3 in Flax linen.

The layers are one ``nn.scan``, so every parameter below ``layers`` leads with the layer axis.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from tera_jax.llama import rope
from tera_jax.llama.attention import ROTATED, Which, at_positions
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.decode.cache import Cache, RowCache
from tera_jax.llama.layer import RESIDUAL, Layer, split_rows
from tera_jax.llama.loop import Ids, of_stack, one_after_another, one_layer, positions, which_layers
from tera_jax.network.contraction import MATERIALIZED
from tera_jax.ops import segment_attention
from tera_jax.ops.acc_matmul import dot_general_acc
from tera_jax.ops.embedding import TokenEmbed
from tera_jax.ops.fp8_matmul import PRODUCT
from tera_jax.ops.rms_norm import RMSNorm


def _kept(primitive: Any, *args: Any, **params: Any) -> Any:
    """The policy of ``dots``: matmuls with kernels, and what else takes long for its size."""
    if primitive.name.startswith("dot_product_attention_fwd"):  # cuDNN's
        return True
    return _KEPT(primitive, *args, **params)


_POLICIES = jax.checkpoint_policies
_KEPT = _POLICIES.save_from_both_policies(
    _POLICIES.dots_with_no_batch_dims_saveable,
    _POLICIES.save_only_these_names(MATERIALIZED, ROTATED, RESIDUAL, PRODUCT),
)
REMAT: dict[str, Any] = {"none": None, "full": _POLICIES.nothing_saveable, "dots": _kept}
"""What the backward pass recomputes: nothing, all of a layer, or all but its matmuls, its
fused attention and the kernels that a method built. Rotated queries and keys, and the residual
stream, are residuals in place of the matmuls that they are made of."""


class Llama(nn.Module):
    """A causal language model.

    Attributes:
        config: its sizes.
        dtype: of the matmuls and the residual stream. Norms, RoPE, softmax and logits are
            float32 whatever it is. For float64 they are float64, but not the softmax.
        remat: ``none``, ``full`` or ``dots``, see ``REMAT``.
        unroll: the layers one after the other in place of a loop over them. With their parameters
            in a list (:mod:`tera_jax.llama.stacking`) a step takes a tenth less time, and compiling
            it grows with the layers.
        param_dtype: in which parameters are initialised; ``dtype`` when None.

    Example:
        >>> model = Llama(config)
        >>> variables = model.init(jax.random.key(0), tokens_BL)
        >>> logits_BLV, _ = model.apply(variables, tokens_BL)
    """

    config: LlamaConfig
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    unroll: bool = False
    param_dtype: DTypeLike | None = None

    def setup(self) -> None:
        """Declares the parts; flax calls it."""
        if self.remat not in REMAT:
            raise ValueError(f"remat={self.remat!r} is unknown; choose one of {', '.join(REMAT)}")
        config = self.config
        param_dtype = self.dtype if self.param_dtype is None else self.param_dtype
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": param_dtype}
        scale = config.hidden_size**0.5 if config.scaled_embedding else 1.0
        self.embed_tokens = TokenEmbed(
            config.vocab_size, config.hidden_size, multiplier=scale, **types
        )
        layer = Layer
        if self.remat != "none":
            # Inside a scan XLA cannot merge the recomputation with the first one.
            layer = nn.remat(Layer, policy=REMAT[self.remat], prevent_cse=self.unroll)
        self.layers = layer(config, **types)
        self.norm = RMSNorm(config.rms_norm_eps, offset=config.norm_offset, **types)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Dense(
                config.vocab_size, use_bias=False, dot_general=dot_general_acc, **types
            )

    def __call__(
        self,
        tokens_BL: Ids,
        positions_BL: Ids | None = None,
        segment_ids_BL: Ids | None = None,
        cache: Cache | RowCache | None = None,
    ) -> tuple[jax.Array, Cache | RowCache | None]:
        """Scores the next token after every token: :meth:`hidden`, then :meth:`logits`.

        Returns:
            ``(logits_BLV, cache)``, the logits float32, the cache with the new tokens in it.
        """
        hidden_BLD, cache = self.hidden(tokens_BL, positions_BL, segment_ids_BL, cache)
        return self.logits(hidden_BLD), cache

    def hidden(
        self,
        tokens_BL: Ids,
        positions_BL: Ids | None = None,
        segment_ids_BL: Ids | None = None,
        cache: Cache | RowCache | None = None,
        mask_BLS: Ids | tuple[Ids, Ids] | None = None,
        lengths_BM: Ids | None = None,
        target_positions_BT: Ids | None = None,
        slots: int | None = None,
    ) -> tuple[jax.Array, Cache | RowCache | None]:
        """The normed residual stream after the last layer.

        Rows padded on the right need no segment ids: no token sees what comes after it.

        Args:
            tokens_BL: int32.
            positions_BL: int32. Without a cache it defaults to 0, 1, ... in each row, or in each
                segment where ``segment_ids_BL`` is given; with a cache it must be given.
            segment_ids_BL: int32. A token attends to its own segment only; 0 is padding.
            cache: its next L slots receive the tokens. They must be free: this is not checked. The
                rows of a :class:`RowCache` are one segment each, and their positions its lengths.
            mask_BLS: with a cache, the slots that each token attends to, in place of those up to
                its own that are of its segment. Where some layers have a window, two: without it
                and with it.
            lengths_BM: int32, without a cache and in place of ``segment_ids_BL``: the tokens of
                segments 1, 2, ... of each row, which follow each other from its start; 0 for none.
                Some GPUs then skip what a mask would only hide.
            target_positions_BT: int32, those of each row whose states are wanted; None for all.
                Unrolled layers leave the rest out of the last one, but for its keys and values.
            slots: of the cache that the keys will be in, where that is another than ``cache``.

        Returns:
            ``(hidden_BLD, cache)``, the hidden states in ``dtype``, or ``hidden_BTD`` of the
            positions.

        Raises:
            ValueError: for a cache without positions, tokens that are not rows, or a known token
                id that is not of the vocabulary.
        """
        if jnp.ndim(tokens_BL) != 2:
            raise ValueError(
                f"tokens of shape {jnp.shape(tokens_BL)}; pass rows of them (B, L), one row as "
                "tokens[None]"
            )
        positions_BL, segment_ids_BL, lengths_BM, target_positions_BT = (
            None if given is None else jnp.asarray(given)
            for given in (positions_BL, segment_ids_BL, lengths_BM, target_positions_BT)
        )
        length = tokens_BL.shape[1]
        if isinstance(cache, RowCache):
            start_B1, index_1L = cache.length_B[:, None], jnp.arange(length, dtype=jnp.int32)[None]
            slot_BL = start_B1 + index_1L
            positions_BL = slot_BL if positions_BL is None else positions_BL
        if cache is not None and positions_BL is None:
            raise ValueError("with a cache, positions_BL must be given")
        if lengths_BM is not None:
            segment_ids_BL = segment_attention.segment_ids(lengths_BM, length)
        if positions_BL is None:
            positions_BL = positions(tokens_BL, segment_ids_BL)
        size = None if cache is None else cache.size if slots is None else slots
        start, kept, mask = None, None, None
        after: Cache | RowCache | None = None
        if isinstance(cache, RowCache):
            start, kept = cache.length_B, (cache.key, cache.value)
            ones_BL, ones_BS = (
                jnp.ones((len(tokens_BL), count), jnp.int32) for count in (length, cache.size)
            )
            mask = self._masks(slot_BL, ones_BL, ones_BS)
            after = cache._replace(length_B=cache.length_B + length)
        elif cache is not None:
            if segment_ids_BL is None:
                segment_ids_BL = jnp.ones_like(tokens_BL)
            segment_ids_BS = lax.dynamic_update_slice_in_dim(
                cache.segment_ids_BS, segment_ids_BL, cache.length, axis=1
            )
            start, kept = cache.length, (cache.key, cache.value)
            if mask_BLS is None:
                slot_1L = start + jnp.arange(length, dtype=jnp.int32)[None, :]
                mask = self._masks(slot_1L, segment_ids_BL, segment_ids_BS)
            else:
                mask = jax.tree.map(lambda each_BLS: jnp.asarray(each_BLS)[:, None], mask_BLS)
            after = cache._replace(segment_ids_BS=segment_ids_BS, length=cache.length + length)
        elif self.config.mixes_windows:
            index_1L = jnp.arange(length, dtype=jnp.int32)[None]
            own_BL = jnp.ones_like(index_1L) if segment_ids_BL is None else segment_ids_BL
            mask = self._masks(index_1L, own_BL, own_BL)
        elif segment_ids_BL is not None:
            mask = segment_ids_BL[:, None, :, None] == segment_ids_BL[:, None, None, :]
        config = self.config
        acc = np.float64 if self.dtype == jnp.float64 else np.float32
        cos, sin = rope.of_model(config, positions_BL, segment_ids_BL, size, acc)
        x_BLD = self.embed_tokens(tokens_BL)
        if config.embedding_multiplier != 1:
            x_BLD = x_BLD * config.embedding_multiplier
        x_BLD = split_rows(x_BLD)
        carry, where = (x_BLD, kept), (cos, sin, mask, start, lengths_BM)
        if (
            target_positions_BT is not None
            and cache is None
            and self._ends_early(length, target_positions_BT.shape[1])
        ):
            x = self._layers_ending_at(target_positions_BT, segment_ids_BL, carry, where)
        else:
            which_N = which_layers(config)
            layers = one_after_another(config.num_layers, self.unroll)
            (x, kept), _ = layers(self.layers, carry, which_N, *where, None)
            x = x if target_positions_BT is None else at_positions(x, target_positions_BT)
        if after is not None and kept is not None:
            after = after._replace(key=kept[0], value=kept[1])
        return self.norm(x)[1], after

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Scores of the next token, float32, of hidden states ``(..., D)``: ``(..., V)``."""
        config = self.config
        if not config.tie_word_embeddings:
            scores = self.lm_head(hidden)
        else:
            embedding_VD = self.embed_tokens.embedding.astype(self.dtype)
            contract = (((hidden.ndim - 1,), (1,)), ((), ()))
            scores = dot_general_acc(hidden, embedding_VD, contract)
        if config.logit_divisor != 1:
            scores = scores / config.logit_divisor
        cap = config.logit_soft_cap
        return scores if cap is None else cap * jnp.tanh(scores / cap)

    def _ends_early(self, length: int, targets: int) -> bool:
        """Whether it pays to do the last layer at the target positions only.

        Not in a loop: the layers before it would be copied out of their stack. Its attention has a
        mask, of which no half is skipped and which cuDNN takes in even sizes.
        """
        return self.unroll and 2 * targets <= length and length % 2 == targets % 2 == 0

    def _layers_ending_at(
        self,
        target_positions_BT: jax.Array,
        segment_ids_BL: jax.Array | None,
        carry: Any,
        where: Any,
    ) -> jax.Array:
        """The residual stream after the last layer at the target positions: ``(B, T, D)``."""
        last = self.config.num_layers - 1
        which_N = which_layers(self.config)
        first = of_stack(one_after_another(last, self.unroll), slice(last))
        carry, _ = first(self.layers, carry, _at(which_N, slice(last)), *where, None)
        if segment_ids_BL is None:
            segment_ids_BL = jnp.ones(carry[0].shape[:2], jnp.int32)
        own_BT = at_positions(segment_ids_BL, target_positions_BT)
        windowed = self.config.has_window(last)
        mask_BTL = self._mask(windowed, target_positions_BT, own_BT, segment_ids_BL)
        at = (_at(which_N, last), *where[:2], mask_BTL[:, None], None, None, target_positions_BT)
        (x_BTD, _), _ = of_stack(one_layer, last)(self.layers, carry, *at)
        return x_BTD

    def _masks(self, *where: jax.Array) -> Any:
        """:meth:`_mask` for all heads; where layers differ, of those without a window and with."""
        config = self.config
        if config.mixes_windows:
            return tuple(self._mask(windowed, *where)[:, None] for windowed in (False, True))
        return self._mask(config.sliding_window is not None, *where)[:, None]

    def _mask(
        self,
        windowed: bool,
        position_BT: jax.Array,
        segment_ids_BT: jax.Array,
        segment_ids_BS: jax.Array,
    ) -> jax.Array:
        """``(B, T, S)``: positions up to the query's own, of its segment, within its window."""
        position_S = jnp.arange(segment_ids_BS.shape[1], dtype=jnp.int32)
        age_BTS = position_BT[:, :, None] - position_S[None, None, :]
        seen_BTS = age_BTS >= 0
        if windowed and self.config.sliding_window is not None:
            seen_BTS &= age_BTS < self.config.sliding_window
        return seen_BTS & (segment_ids_BT[:, :, None] == segment_ids_BS[:, None, :])


def _at(which_N: Which, index: Any) -> Any:
    return jax.tree.map(lambda each_N: each_N[index], which_N)
