"""Every method on a small Llama: under scan and remat, sharded, merged, saved and loaded."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import adapt, load_adapter, save_adapter
from tera_jax.llama import Llama, LlamaConfig
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.methods import TABLE, NotMergeableError
from tera_jax.sharding import make_mesh, replicated, rows
from tests import initial
from tests.marks import quick_only
from tests.parts import SMALL, SMALL_METHODS, perturbed, value_and_grad

NOT_MERGEABLE = {"prompt", "p_tuning", "toplora"}
FEW = ("tera", "dora", "unilora", "prompt")
ONE_OF_A_KIND = ("tera", "lora", "dora", "ia3", "unilora", "prompt", "full")
BY_POSITION = (*ONE_OF_A_KIND, "toplora", "unires")
"""For what a model does to every method: beside one of a kind those with an apply of their own."""
BY_SHARDING = (*BY_POSITION, "hira", "pissa", "ln_tuning", "fourierft", "vblora")
"""And those that read the kernel, a norm, or one array for all layers, which a mesh splits."""
CONFIG = LlamaConfig.from_hf(SMALL | {"tie_word_embeddings": True})


@functools.cache
def made(name, remat="none"):
    """The adapter, the model, perturbed variables, and tokens with the virtual ones before them."""
    model = Llama(CONFIG, remat=remat)
    random = np.random.default_rng(0)
    params = initial.params(model, jnp.zeros((1, 2), jnp.int32))
    params = jax.tree.map(
        lambda p: p + jnp.asarray(0.1 * random.standard_normal(p.shape), p.dtype), params
    )
    config = TABLE[name](**SMALL_METHODS[name])
    adapter = adapt(model, jnp.ones((1, 2), jnp.int32), method=name, config=config)
    variables, tokens_BL = perturbed(adapter, params, random)
    return adapter, model, variables, tokens_BL


def assert_same(found, expected):
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * np.abs(b).max())


@functools.cache
def reference(name):
    adapter, model, v, tokens_BL = made(name)
    return jax.jit(value_and_grad(adapter, model))(v["d"], v["params"], v["frozen"], tokens_BL)


@pytest.mark.parametrize("name", quick_only(FEW[1:3], TABLE))
def test_every_trained_array_has_a_gradient_and_remat_does_not_change_it(name):
    adapter, model, v, tokens_BL = made(name, "full")
    found = jax.jit(value_and_grad(adapter, model))(v["d"], v["params"], v["frozen"], tokens_BL)
    assert_same(found, reference(name))
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(found[1]))


@pytest.mark.parametrize("name", quick_only(FEW[:2], BY_POSITION))
def test_states_at_some_positions_have_the_gradient_of_those_of_all(name):
    """Unrolled, the last layer's queries and MLP are adapted at these positions alone."""
    adapter, model, v, tokens_BL = made(name)
    length = tokens_BL.shape[1] // 2 * 2
    target_positions_BT = jnp.asarray(
        np.random.default_rng(1).integers(length, size=(8, 4)), jnp.int32
    )

    def states(d, model, target_positions_BT):
        found, _ = adapter.apply(
            model,
            {**v, "d": d},
            tokens_BL[:, :length],
            target_positions_BT=target_positions_BT,
            method="hidden",
        )
        return found

    def graded(read):
        return jax.jit(jax.value_and_grad(lambda d: jnp.mean(jnp.sin(3 * read(d)))))(v["d"])

    def picked(d):
        return jnp.take_along_axis(states(d, model, None), target_positions_BT[:, :, None], axis=1)

    expected = graded(picked)
    found = graded(lambda d: states(d, model.clone(unroll=True, remat="dots"), target_positions_BT))
    assert_same(found, expected)
    assert any(jnp.any(g != 0) for g in jax.tree.leaves(found[1]))


@pytest.mark.parametrize("name", quick_only(FEW, BY_SHARDING))
def test_a_sharded_step_equals_one_device(name):
    adapter, model, v, tokens_BL = made(name)
    mesh = make_mesh(2, 2, 2)
    layout = parameter_shardings(v["params"], mesh)
    step = jax.jit(
        value_and_grad(adapter, model),
        in_shardings=(None, layout, replicated(mesh), rows(mesh)),
    )
    with jax.set_mesh(mesh):
        found = step(
            jax.device_put(v["d"], layout if name == "full" else replicated(mesh)),
            jax.device_put(v["params"], layout),
            jax.device_put(v["frozen"], replicated(mesh)),
            tokens_BL,
        )
    assert_same(found, reference(name))


@pytest.mark.parametrize("name", quick_only(ONE_OF_A_KIND, TABLE))
def test_merged_weights_do_what_the_adapted_model_does(name):
    adapter, model, v, tokens_BL = made(name)
    assert adapter.mergeable == (name not in NOT_MERGEABLE)
    if name in NOT_MERGEABLE:
        with pytest.raises(NotMergeableError):
            adapter.merge(v)
        return
    adapted = initial.adapted_logits(adapter, model, v, tokens_BL)
    merged = initial.logits(model, jax.jit(adapter.merge)(v), tokens_BL)
    base = initial.logits(model, v["params"], tokens_BL)
    np.testing.assert_allclose(adapted, merged, atol=2e-5 * np.ptp(base), rtol=1e-4)
    assert np.abs(adapted - base).max() > 1e-2 * np.ptp(base)


@pytest.mark.parametrize("name", quick_only(ONE_OF_A_KIND, TABLE))
def test_an_adapter_survives_the_round_trip(name, tmp_path):
    adapter, _, v, _ = made(name)
    save_adapter(tmp_path / "a", adapter, v, "base")
    loaded, found = load_adapter(tmp_path / "a", v["params"])
    assert loaded == adapter
    for key in ("d", "frozen"):
        for a, b in zip(*map(jax.tree.leaves, (found[key], v[key])), strict=True):
            assert jnp.array_equal(a, b)


@pytest.mark.parametrize(
    "name",
    quick_only(
        ["lora", "dora", "unilora"],
        ["lora", "hira", "vera", "dora", "pissa", "loretta", "toplora", "unilora"],
    ),
)
def test_dropout_needs_a_key_and_changes_with_it(name):
    adapter, model, v, tokens_BL = made(name)
    config = TABLE[name](**{**SMALL_METHODS[name], "dropout": 0.5})
    dropping = adapt(model, jnp.ones((1, 2), jnp.int32), method=name, config=config)

    @jax.jit
    def with_key(key):
        return dropping.apply(model, v, tokens_BL, rngs={"dropout": key})[0]

    without, expected = (
        initial.adapted_logits(each, model, v, tokens_BL) for each in (dropping, adapter)
    )
    np.testing.assert_allclose(without, expected, atol=1e-5)
    one, two = with_key(jax.random.key(1)), with_key(jax.random.key(2))
    assert jnp.array_equal(one, with_key(jax.random.key(1)))
    assert not jnp.allclose(one, two, atol=1e-3)
    assert not jnp.allclose(one, without, atol=1e-3)


def test_the_last_layer_drops_at_some_positions_too():
    model = Llama(dataclasses.replace(CONFIG, num_layers=1), unroll=True)
    params = initial.params(model, jnp.zeros((1, 2), jnp.int32))
    config = TABLE["lora"](rank=4, dropout=0.5)
    adapter = adapt(model, jnp.ones((1, 2), jnp.int32), method="lora", config=config)
    variables, tokens_BL = perturbed(adapter, params, np.random.default_rng(0))
    target_positions_BT = jnp.asarray(np.tile(np.arange(4, dtype=np.int32), (8, 1)))

    @jax.jit
    def states(rngs):
        return adapter.apply(
            model,
            variables,
            tokens_BL[:, :8],
            target_positions_BT=target_positions_BT,
            method="hidden",
            rngs=rngs,
        )[0]

    one, two = (states({"dropout": jax.random.key(seed)}) for seed in (1, 2))
    assert jnp.array_equal(one, states({"dropout": jax.random.key(1)}))
    assert not jnp.allclose(one, two, atol=1e-3)
    assert not jnp.allclose(one, states(None), atol=1e-3)
