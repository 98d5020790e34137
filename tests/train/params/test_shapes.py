import jax
import jax.numpy as jnp

from tera_jax import adapt, sharding
from tera_jax.llama import Llama, LlamaConfig
from tera_jax.llama.sharding import parameter_shardings
from train.params.shapes import MODELS


def test_trainable_count_of_llama_2_7b_by_shapes_alone():
    """264,192, the count behind the paper's 0.0039 %."""
    config = LlamaConfig.from_hf(MODELS["llama-2-7b"])
    model = Llama(config, dtype=jnp.bfloat16)
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32)))
    adapter = adapt(model, tokens)
    assert {str(adapter.method.tensorization(site.kernel_shape)) for site in adapter.layers} == {
        "4096|8x8x8x8"
    }
    frozen = jax.eval_shape(adapter.init_frozen, params["params"])
    d = jax.eval_shape(adapter.init_d, params["params"], frozen)
    assert sum(leaf.size for leaf in jax.tree.leaves(d)) == 264_192
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 6_738_415_616
    parameter_shardings(params["params"], sharding.make_mesh(2, 2, 2))
