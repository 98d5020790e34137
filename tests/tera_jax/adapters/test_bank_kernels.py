"""Kernels of a batch whose rows have adapters of their own: layers of one input share one."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from tera_jax import adapt
from tera_jax.adapters.bank import make_bank
from tera_jax.llama import Llama
from tera_jax.methods import TABLE
from tera_jax.ops import dispatch
from tests.margins import within
from tests.tera_jax.adapters.test_bank import error
from tests.tera_jax.adapters.test_factory import CONFIG


def kernel_calls(jaxpr):
    for equation in jaxpr.eqns:
        yield from ["kernel"] * (equation.primitive.name == "pallas_call")
        for inner in jaxprs_in_params(equation.params):
            yield from kernel_calls(inner)


@pytest.mark.parametrize(
    ("targets", "calls"), [(("q_proj", "v_proj"), 1), (("v_proj", "o_proj"), 2)]
)
def test_layers_that_read_one_input_share_one_kernel(targets, calls):
    config = dataclasses.replace(
        CONFIG, hidden_size=256, head_dim=64, num_kv_heads=4, attention_bias=False
    )
    model, tokens_BL = Llama(config), jnp.asarray([[1, 2], [3, 4]])
    params = jax.jit(model.init)(jax.random.key(0), tokens_BL)["params"]
    method = TABLE["tera"](tensorizations=("256|16x16",), structure="hadamard")
    adapter = adapt(model, tokens_BL, config=method, targets=targets)
    frozen = adapter.init_frozen(params)
    ones = jax.tree.map(jnp.ones_like, adapter.init_d(params, frozen))
    bank = make_bank(adapter, params, frozen, [ones])
    variables = {"params": params, "frozen": frozen, "d": bank.gather(bank.index([1, 0]))}

    def run(variables):
        return adapter.apply_rows(model, variables, tokens_BL)[0]

    expected = jax.jit(run)(variables)
    with dispatch.forced(True):
        jaxpr, found = jax.make_jaxpr(run)(variables), jax.jit(run)(variables)
    assert len(list(kernel_calls(jaxpr.jaxpr))) == calls
    within(error(found, expected), 1e-4)
    assert error(found[:1], found[1:]) > 1e-2
