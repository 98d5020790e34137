"""Every method that adapts linear layers takes any of them: q and v, v and o, all."""

import jax
import jax.numpy as jnp
import pytest

from tera_jax import adapt
from tera_jax.llama import Llama, LlamaConfig
from tera_jax.methods import TABLE
from tera_jax.methods.base import LinearMethod
from tests import parts

TOKENS = jax.ShapeDtypeStruct((1, 4), jnp.int32)
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
PLACES = {
    ("q_proj", "v_proj"): {"q_proj", "v_proj"},
    ("v_proj", "o_proj"): {"v_proj", "o_proj"},
    ("all-linear",): {*ATTENTION, "gate_proj", "up_proj", "down_proj"},
}
ADAPTING = [name for name, method in TABLE.items() if issubclass(method, LinearMethod)]


@pytest.fixture(scope="module")
def model():
    return Llama(LlamaConfig.from_hf(parts.SMALL))


def placed(model, method, targets):
    config = TABLE[method](**parts.SMALL_METHODS[method])
    return adapt(model, TOKENS, method=method, config=config, targets=targets)


@pytest.mark.parametrize("method", ADAPTING)
def test_every_method_adapts_the_layers_that_targets_name(model, method):
    params = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    for targets, modules in PLACES.items():
        if method == "quanta" and "all-linear" in targets:
            continue
        adapter = placed(model, method, targets)
        assert {layer.path[-1] for layer in adapter.layers} == modules
        frozen = jax.eval_shape(adapter.init_frozen, params)
        d = jax.eval_shape(adapter.init_d, params, frozen)
        paths = jax.tree_util.tree_leaves_with_path(d)
        trained = {key.key for path, _ in paths for key in path if hasattr(key, "key")}
        assert trained & {*PLACES["all-linear",]} == (set() if method == "unilora" else modules)


def test_the_axes_of_quanta_are_those_of_one_width(model):
    with pytest.raises(ValueError, match=r"axes \(4, 4, 2\) multiply out to 32 features, but .*48"):
        placed(model, "quanta", ["all-linear"])
