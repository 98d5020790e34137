import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.llama import Llama, LlamaConfig, load_pretrained
from tera_jax.llama.family.rope_scaling import YarnScaling
from tests.tera_jax.llama.family import models

OTHERS = LlamaConfig(
    *(128, 64, 96, 4, 4, 2, 16, 256, 1e-5),
    rope_scaling=YarnScaling(4.0, 64, 1.1),
    attention_bias=True,
    output_bias=True,
    mlp_bias=True,
    qk_norm=True,
    qk_norm_over="projection",
    norms="post",
    sliding_window=6,
    sliding_layers=(True, False, True, False),
    nope_layers=(False, True, False, False),
    local_rope_theta=500.0,
    rotary_share=0.75,
    attention_scale=0.4,
    embedding_multiplier=3.0,
    residual_multiplier=0.4,
    logit_divisor=2.0,
)
"""A decoder with all features that the other two lack."""


@pytest.fixture(scope="session")
def family_path(tmp_path_factory):
    """Makes the checkpoint of a family once: ``family_path(family) -> directory``."""
    made = {}

    def make(family):
        if family not in made:
            made[family] = models.save(family, tmp_path_factory.mktemp(family))
        return made[family]

    return make


@pytest.fixture(params=["gemma2", "phi3-long", "others"])
def decoder(request, family_path):
    """Model and params."""
    if request.param != "others":
        return load_pretrained(family_path(request.param))
    model = Llama(OTHERS)
    params = jax.jit(model.init)(jax.random.key(0), np.ones((1, 4), np.int32))["params"]
    random = np.random.default_rng(1)

    def moved(leaf):
        return leaf + jnp.asarray(0.1 * random.standard_normal(leaf.shape), leaf.dtype)

    return model, jax.tree.map(moved, params)
