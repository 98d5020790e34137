"""float64 throughout, in JAX and in torch, for comparisons that rounding must not decide."""

import contextlib
import math

import jax
import jax.numpy as jnp
import pytest
import torch


@contextlib.contextmanager
def everywhere():
    """Where this library, transformers or PEFT would compute in float32, they take float64.

    Both references write ``torch.float32`` and ``.float()`` into their norms, their rotary
    positions, their softmax and PiSSA's SVD. JAX's attention fixes its softmax in float32, so it
    is replaced by its definition.
    """
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        default = torch.get_default_dtype()
        for name in ("float32", "float"):
            patch.setattr(torch, name, torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(jax.nn, "dot_product_attention", _attention)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


def _attention(query_BLNH, key_BSKH, value_BSKH, *, mask, is_causal, **other):
    assert mask is None, "not of this definition"
    assert is_causal, "not of this definition"
    assert other == {"local_window_size": None, "implementation": "xla", "scale": None}, other
    groups = query_BLNH.shape[2] // key_BSKH.shape[2]
    key_BSNH, value_BSNH = (jnp.repeat(x, groups, axis=2) for x in (key_BSKH, value_BSKH))
    scores_BNLS = jnp.einsum("blnh,bsnh->bnls", query_BLNH, key_BSNH)
    scores_BNLS /= math.sqrt(query_BLNH.shape[-1])
    seen_LS = jnp.tril(jnp.ones(scores_BNLS.shape[-2:], bool))
    scores_BNLS = jnp.where(seen_LS[None, None], scores_BNLS, -jnp.inf)
    return jnp.einsum("bnls,bsnh->blnh", jax.nn.softmax(scores_BNLS), value_BSNH)
