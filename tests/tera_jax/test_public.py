"""The public names: what they are called with, and that together they do what they promise."""

import dataclasses
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tera_jax
import tera_jax.llama
from tera_jax.methods import tera

SIGNATURES = {
    tera_jax.adapt: "model, *args, method='tera', config=None, targets=None, **kwargs",
    tera_jax.load_adapter: "directory, params, allow_other_base=False",
    tera_jax.load_adapters: "directories, params, allow_other_base=False",
    tera_jax.save_adapter: (
        "directory, adapter, variables, base_name, with_frozen=False, "
        "dtype=<class 'jax.numpy.float32'>, check_frozen=True"
    ),
    tera_jax.finetune: (
        "model, records, method='tera', workdir=None, validation=None, callbacks=(), live=None, "
        "**settings"
    ),
    tera_jax.generate: (
        "model, variables, tokenizer, prompts, adapter=None, config=None, seed=0, "
        "batch_size=8, stop=(), **settings"
    ),
    tera_jax.stream: (
        "model, variables, tokenizer, prompt, adapter=None, config=None, seed=0, stop=(), "
        "**settings"
    ),
    tera_jax.fold: "matrix, tensorization",
    tera_jax.unfold: "tensor, split",
    tera_jax.Tensorization.parse: "text",
    tera_jax.Adapter.init_frozen: "self, params",
    tera_jax.Adapter.init_d: "self, params, frozen, seed=0",
    tera_jax.Adapter.apply: (
        "self, model, variables, *args, materialized=None, rows=None, **kwargs"
    ),
    tera_jax.Adapter.apply_rows: "self, model, variables, *args, **kwargs",
    tera_jax.Adapter.prepare_rows: "self, variables",
    tera_jax.Adapter.base_d: "self, params, frozen",
    tera_jax.Adapter.materialize: "self, variables, tokens",
    tera_jax.Adapter.merge: "self, variables",
    tera.init_frozen: "key, tensorization, config",
    tera.init_d: "tensorization, config",
    tera.delta_w: "frozen, d, tensorization, precision=None",
    tera_jax.llama.load_pretrained: (
        "path_or_name, dtype=<class 'jax.numpy.float32'>, mesh=None, remat='none', "
        "quantize='none', block=64"
    ),
    tera_jax.llama.load_tokenizer: "path_or_name",
    tera_jax.llama.LlamaConfig.from_hf: "raw",
}


def shown(function):
    """Its parameters without annotations."""
    parameters = inspect.signature(function).parameters.values()
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
    return ", ".join(map(str, plain))


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_a_public_function_is_called_as_documented(function):
    assert shown(function) == SIGNATURES[function]


def test_the_names_are_listed():
    names = {"Adapter", "Tensorization", "adapt", "finetune", "fold", "generate", "load_adapter"}
    names |= {"default_config", "load_adapters", "published_config"}
    names |= {"save_adapter", "stream", "unfold", "__version__"}
    assert names == set(tera_jax.__all__)
    assert {"LlamaConfig", "load_pretrained", "load_tokenizer"} <= set(tera_jax.llama.__all__)
    for module in (tera_jax, tera_jax.llama):
        assert all(getattr(module, name) is not None for name in module.__all__)
    assert tera.TeraConfig is tera.TeRA


def test_the_configuration_of_tera_has_todays_fields():
    defaults = {field.name: field.default for field in dataclasses.fields(tera.TeraConfig)}
    assert defaults == {
        "tensorizations": (),
        "num_modes": 4,
        "side": "out",
        "zero_init_mode": "longest",
        "init": "orthogonal",
        "gain": 16.0,
        "sharing": "shape",
        "seed": 0,
        "dtype": "float32",
        "structure": "dense",
        "head_dim": None,
    }


def test_a_network_by_hand_is_the_adapters(tmp_path):
    """``adapt`` with ``4x6|8x2`` is what ``init_frozen``, ``init_d`` and ``delta_w`` make."""
    scheme = tera_jax.Tensorization.parse("4x6|8x2")
    assert (scheme.in_modes, scheme.out_modes) == ((4, 6), (8, 2))
    assert (str(scheme), scheme.num_trainable) == ("4x6|8x2", 4 + 6 + 8 + 2)
    config = tera.TeraConfig(tensorizations=("4x6|8x2",))
    frozen = tera.init_frozen(jax.random.key(0), scheme, config)
    assert set(frozen) == {"core", "factors"}
    assert frozen["core"].shape == (4, 6, 8, 2)
    d = [vector + 0.5 for vector in tera.init_d(scheme, config)]
    delta_JO = tera.delta_w(frozen, d, scheme)

    tensor = frozen["core"]
    for axis, (vector, factor) in enumerate(zip(d, frozen["factors"], strict=True)):
        tensor = jnp.moveaxis(jnp.tensordot(tensor, vector[:, None] * factor, (axis, 0)), -1, axis)
    by_hand_JO = tera_jax.unfold(tensor, 2)
    np.testing.assert_allclose(delta_JO, by_hand_JO, atol=1e-5 * np.abs(delta_JO).max())
    assert jnp.array_equal(tera_jax.fold(by_hand_JO, scheme), tensor)
    other_JO = tera.delta_w(frozen, [d[0] + 1, *d[1:]], scheme)
    assert jnp.abs(other_JO - delta_JO).max() > 0.1 * jnp.abs(delta_JO).max()

    model, x = nn.Sequential([nn.Dense(16)]), jnp.ones((2, 24))
    adapter = tera_jax.adapt(model, x, config=config, targets=["layers_0"])
    assert isinstance(adapter, tera_jax.Adapter)
    params = model.init(jax.random.key(0), x)["params"]
    variables = {
        "params": params,
        "frozen": {"shared": {"24x16": frozen}},
        "d": {"layers_0": {"tera": d}},
    }
    drawn = adapter.init_frozen(params)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, variables["frozen"])
    merged = adapter.merge(variables)["layers_0"]["kernel"]
    np.testing.assert_allclose(
        merged, params["layers_0"]["kernel"] + delta_JO, atol=1e-5 * np.abs(delta_JO).max()
    )
    variables["frozen"] = drawn
    tera_jax.save_adapter(tmp_path / "a", adapter, variables, "base")
    loaded, found = tera_jax.load_adapter(tmp_path / "a", params)
    assert loaded == adapter
    assert jnp.array_equal(adapter.apply(model, variables, x), loaded.apply(model, found, x))
    assert not jnp.array_equal(
        adapter.apply(model, variables, x), model.apply({"params": params}, x)
    )
