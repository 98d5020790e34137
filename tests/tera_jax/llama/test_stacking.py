import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.steps import TINY, random_batch
from tera_jax import adapt, sharding
from tera_jax.llama import Llama, LlamaConfig, stacking
from tera_jax.llama.sharding import parameter_shardings
from tests import initial
from tests.marks import quick_only
from train.training.steps.step import init_state, make_train_step

CONFIG = LlamaConfig.from_hf(TINY)
BATCH = random_batch(8, 16, CONFIG.vocab_size)
OPTIMIZER = optax.adam(1e-3)


@pytest.fixture
def params():
    return initial.params(Llama(CONFIG), jnp.zeros((1, 2), jnp.int32))


def copy(params):
    return jax.tree.map(jnp.copy, params)


def test_split_and_join_give_the_parameters_back_and_take_what_they_are_given(params):
    before = jax.device_get(params)
    kernel = params["layers"]["mlp"]["up_proj"]["kernel"]
    parts = stacking.split(params)
    assert kernel.is_deleted()
    assert not params["norm"]["scale"].is_deleted()
    assert stacking.is_split(parts)
    assert not stacking.is_split(params)
    assert len(parts["layers"]) == CONFIG.num_layers
    np.testing.assert_array_equal(
        parts["layers"][1]["mlp"]["up_proj"]["kernel"],
        before["layers"]["mlp"]["up_proj"]["kernel"][1],
    )
    again = stacking.join(parts)
    assert parts["layers"][0]["mlp"]["up_proj"]["kernel"].is_deleted()
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(again))


def test_layouts_are_those_of_the_table_in_either_form(params):
    mesh = sharding.make_mesh(2, 2, 2)
    layout = stacking.shardings(params, mesh)
    assert layout == parameter_shardings(params, mesh)
    parts = stacking.split(jax.device_put(params, layout))
    wanted = stacking.shardings(parts, mesh)
    jax.tree.map(lambda array, each: assert_laid_out(array, each), parts, wanted)
    again = stacking.join(parts)
    jax.tree.map(lambda array, each: assert_laid_out(array, each), again, layout)
    spec = wanted["layers"][0]["mlp"]["up_proj"]["kernel"].spec
    assert (None, *spec) == tuple(layout["layers"]["mlp"]["up_proj"]["kernel"].spec)


def assert_laid_out(array, wanted):
    assert array.sharding.is_equivalent_to(wanted, array.ndim)


@pytest.mark.parametrize(
    ("method", "remat"),
    quick_only(
        [("tera", "dots")],
        [("tera", "dots"), ("tera", "full"), ("full", "none")],
        names=2,
    ),
)
def test_unrolled_steps_are_those_of_the_loop(params, method, remat):
    found = []
    for unroll in (False, True):
        _, _, state, given = begin(copy(params), method, remat, unroll)
        step, losses = program(method, remat, unroll), []
        for _ in range(3):
            state, metrics = step(state, *given, BATCH)
            losses.append(float(metrics.loss))
        found.append((losses, jax.device_get(state.d)))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-6)
    assert found[0][0][2] < found[0][0][0]
    (_, looped), (_, unrolled) = found
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), unrolled, looped
    )


def begin(params, method, remat, unroll):
    """The model, the adapter, the state at step 0 and the other arguments of a step."""
    model = Llama(CONFIG, remat=remat, unroll=unroll)
    adapter = adapt(model, jnp.zeros((1, 2), jnp.int32), method=method)
    frozen = initial.frozen(adapter, params)
    state = init_state(copy(initial.d(adapter, params, frozen)), OPTIMIZER)
    return model, adapter, state, (stacking.split(params) if unroll else params, frozen)


@functools.cache
def program(method, remat, unroll):
    """A step, compiled once for all tests."""
    params = initial.params(Llama(CONFIG), jnp.zeros((1, 2), jnp.int32))
    model, adapter, state, given = begin(params, method, remat, unroll)
    mesh = sharding.make_mesh(1, 1, 1)
    with jax.set_mesh(mesh):
        step = make_train_step(model, adapter, OPTIMIZER, mesh, given[0], state)
        return step.lower(state, *given, BATCH).compile()


def test_no_stack_of_kernels_is_made_of_a_list(params):
    """XLA sees through it; in a loop it stays."""

    def stacks(unroll):
        text = program("tera", "dots", unroll).as_text()
        shape = ",".join(map(str, params["layers"]["mlp"]["up_proj"]["kernel"].shape))
        return len(re.findall(rf"f32\[{shape}\]", text))

    assert stacks(unroll=True) == 0
    assert stacks(unroll=False) > 0


def test_rematerialisation_saves_memory_in_a_loop():
    """Unrolled, what is kept is up to XLA's schedule, which on a CPU keeps all."""

    def bytes_(remat):
        return program("tera", remat, unroll=False).memory_analysis().temp_size_in_bytes

    assert bytes_("full") < bytes_("dots") < bytes_("none")
