"""The embedding of token ids, which refuses ids that have none."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import dtypes
from jaxtyping import Array, Integer


class TokenEmbed(nn.Embed):
    """``nn.Embed``, but for ids out of range: ``nn.Embed`` reads them as NaN or from the end.

    ``multiplier``, rounded to ``dtype``, multiplies every embedding that is read.
    """

    multiplier: float = 1.0

    promote_dtype: Any = dtypes.promote_dtype  # linen's annotation cannot be checked at run time

    def __call__(self, inputs: Array | np.ndarray) -> Array:
        """The embeddings (..., D) of ids (...).

        Raises:
            ValueError: for ids that are no integers, or known ones out of range.
        """
        if not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise ValueError(f"token ids are integers, not {inputs.dtype}")
        require_token_ids(inputs, self.num_embeddings)
        dtype = self.embedding.dtype if self.dtype is None else self.dtype
        found = jnp.take(self.embedding.astype(dtype), inputs, axis=0)
        return found if self.multiplier == 1 else found * jnp.asarray(self.multiplier, dtype)


def require_token_ids(ids: Integer[Array, "..."] | np.ndarray, count: int) -> None:
    """Raise ``ValueError`` unless all ids are from 0 to ``count - 1``.

    Traced ids, and those that lie on devices of other processes, are not known here and pass.
    """
    if isinstance(ids, jax.core.Tracer) or not getattr(ids, "is_fully_addressable", True):
        return
    known = np.asarray(ids)
    outside = known[(known < 0) | (known >= count)]
    if outside.size:
        raise ValueError(
            f"token id {outside[0]} is out of range: the {count} ids that the model knows are from "
            f"0 to {count - 1}"
        )
