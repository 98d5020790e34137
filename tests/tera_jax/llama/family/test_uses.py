"""What is done with a model works for a family, too: on Gemma 2, Phi-3 and all other features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import tera_jax
from tera_jax.adapters import interceptor
from tera_jax.llama import save_pretrained
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.methods import method_class
from tera_jax.quantize import quantize
from tera_jax.sharding import make_mesh, rows
from tests.margins import within


def loss(model, params, *args, **kwargs):
    return jnp.mean(jnp.square(model.apply({"params": params}, *args, **kwargs)[0]))


@pytest.mark.long
def test_meshes_remat_and_unrolled_layers_change_nothing(decoder, tokens_BL, apply):
    model, params = decoder
    tokens_BL = np.concatenate([tokens_BL, tokens_BL[::-1] + 1]) % 128
    expected = jax.jit(jax.value_and_grad(lambda params: loss(model, params, tokens_BL)))(params)
    assert float(expected[0]) > 0
    for other in (model.clone(remat="full"), model.clone(remat="dots", unroll=True)):
        found = jax.jit(jax.value_and_grad(lambda p, other=other: loss(other, p, tokens_BL)))(
            params
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found, expected
        )
    mesh = make_mesh(2, 2, 2)
    sharded = jax.device_put(params, parameter_shardings(params, mesh))
    whole = apply(model, params, tokens_BL)
    with jax.set_mesh(mesh):
        found = apply(model, sharded, jax.device_put(tokens_BL, rows(mesh)))
    np.testing.assert_allclose(found, whole, atol=1e-4)
    assert np.max(np.abs(whole - whole[::-1])) > 1e-2


@pytest.mark.long
def test_packed_rows_have_the_loss_and_gradient_of_padded_ones(decoder, tokens_BL, apply):
    model, params = decoder
    separate_BL = tokens_BL[:, :14]
    packed_BL = separate_BL.reshape(1, 28)
    lengths_BM = np.array([[14, 14]], np.int32)

    def squares(params, tokens_BL, **how):
        hidden_BLD, _ = model.apply({"params": params}, tokens_BL, method="hidden", **how)
        return jnp.sum(jnp.square(model.apply({"params": params}, hidden_BLD, method="logits")))

    expected = jax.jit(jax.value_and_grad(squares))(params, separate_BL)
    run = jax.jit(jax.value_and_grad(lambda p, x, n: squares(p, x, lengths_BM=n)))
    found = run(params, packed_BL, lengths_BM)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * float(np.max(np.abs(b))) + 1e-6)
    wrong = run(params, packed_BL, np.array([[28, 0]], np.int32))
    assert abs(float(wrong[0] / expected[0]) - 1) > 1e-3


@pytest.mark.long
@pytest.mark.parametrize("method", ["lora", "tera", "dora", "ln_tuning"])
def test_methods_apply_and_merge(decoder, method, tokens_BL, load_torch, tmp_path):
    model, params = decoder
    settings = {"num_modes": 2} if method == "tera" else {}
    config = method_class(method)(**settings)
    adapter = tera_jax.adapt(model, tokens_BL, method=method, config=config)
    frozen = jax.jit(adapter.init_frozen)(params)
    d = jax.jit(adapter.init_d)(params, frozen)
    random = np.random.default_rng(0)
    d = jax.tree.map(lambda v: v + jnp.asarray(0.1 * random.standard_normal(v.shape), v.dtype), d)
    variables = {"params": params, "frozen": frozen, "d": d}
    base = np.asarray(jax.jit(model.apply)({"params": params}, tokens_BL)[0])
    found = np.asarray(jax.jit(lambda v: adapter.apply(model, v, tokens_BL)[0])(variables))
    merged = jax.jit(adapter.merge)(variables)
    expected = np.asarray(jax.jit(model.apply)({"params": merged}, tokens_BL)[0])
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.ptp(expected))
    assert np.max(np.abs(found - base)) > 1e-2 * np.ptp(base)
    if model.config.model_type != "llama":  # no file says what the synthetic one is
        save_pretrained(model, merged, tmp_path / "merged")
        with torch.no_grad():
            theirs = load_torch(tmp_path / "merged")(torch.tensor(tokens_BL)).logits.numpy()
        np.testing.assert_allclose(theirs, expected, atol=1e-4 * np.ptp(expected))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["int8", "nf4", "fp8"])
def test_a_quantised_base_is_close(decoder, kind, tokens_BL):
    model, params = decoder
    stored = quantize(params, kind, **({} if kind == "fp8" else {"block": 32}))
    base = np.asarray(jax.jit(model.apply)({"params": params}, tokens_BL)[0])
    run = jax.jit(lambda p: interceptor.apply_base(model, {"params": p}, tokens_BL)[0])
    error = np.linalg.norm(np.asarray(run(stored)) - base) / np.linalg.norm(base)
    assert error > 1e-4
    within(error, {"int8": 0.1, "nf4": 0.8, "fp8": 0.3}[kind])
