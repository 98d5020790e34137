"""A method that adds to the scale of norms, as LN-tuning does."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import adapt, load_adapter, methods, quantize, save_adapter
from tera_jax.adapters.quantized_merge import merge_quantized
from tera_jax.methods import NotMergeableError
from tera_jax.methods.base import NormMethod
from tests.marks import quick_only
from tests.tera_jax.adapters import small_llama
from train.params import count

NORMS = ["layers/input_layernorm", "layers/post_attention_layernorm", "norm"]


@dataclasses.dataclass(frozen=True)
class Shifted(NormMethod):
    """The scale plus d."""

    def init_d(self, key, scale_D, layer):
        return {"shift": jnp.zeros(scale_D.shape, jnp.float32)}

    def merge(self, d, scale_D, layer):
        return (scale_D.astype(jnp.float32) + d["shift"]).astype(scale_D.dtype)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(methods.TABLE, "shifted", Shifted)


def made(variant="scan", targets=None):
    return small_llama.made("shifted", Shifted(), targets, variant)


def test_the_default_is_every_norm_of_the_stream():
    adapter, _, v, _, _ = made()
    assert [(layer.name, layer.kernel_shape, layer.stack) for layer in adapter.layers] == [
        (NORMS[0], (32,), (2,)),
        (NORMS[1], (32,), (2,)),
        (NORMS[2], (32,), ()),
    ]
    assert jax.tree.map(jnp.shape, v["d"]["norm"]) == {"shifted": {"shift": (32,)}}
    assert v["frozen"] == {}
    assert (adapter.mergeable, adapter.regenerates) == (True, True)
    assert (adapter.adapts("norm"), adapter.adapts("lm_head")) == (True, False)


@pytest.mark.parametrize("variant", quick_only([*small_llama.VARIANTS][:1], small_llama.VARIANTS))
def test_at_step_0_it_is_the_base_and_then_the_merged_model(variant):
    adapter, model, first, moved, tokens_BL = made(variant)
    base = small_llama.plain(model, first["params"], tokens_BL)
    assert jnp.array_equal(small_llama.adapted(adapter, model, first, tokens_BL), base)
    assert small_llama.equal(adapter.merge(first), first["params"])
    found = small_llama.adapted(adapter, model, moved, tokens_BL)
    merged = small_llama.plain(model, jax.jit(adapter.merge)(moved), tokens_BL)
    np.testing.assert_allclose(found, merged, atol=2e-5 * np.ptp(base))
    assert np.abs(found - base).max() > 1e-2 * np.ptp(base)


@pytest.mark.parametrize("variant", quick_only([*small_llama.VARIANTS][:1], small_llama.VARIANTS))
def test_the_gradient_of_d_is_that_of_the_scales(variant):
    adapter, model, _, v, tokens_BL = made(variant)

    def adapted_loss(d):
        return small_llama.loss(adapter.apply(model, {**v, "d": d}, tokens_BL)[0], tokens_BL)

    def plain_loss(params):
        return small_llama.loss(model.apply({"params": params}, tokens_BL)[0], tokens_BL)

    found = jax.jit(jax.grad(adapted_loss))(v["d"])
    expected = jax.jit(jax.grad(plain_loss))(adapter.merge(v))
    at_base = jax.jit(jax.grad(plain_loss))(v["params"])
    for name in NORMS:
        parts = [found, expected, at_base]
        for key in name.split("/"):
            parts = [part[key] for part in parts]
        shift, scale, other = parts[0]["shifted"]["shift"], parts[1]["scale"], parts[2]["scale"]
        largest = np.abs(scale).max()
        np.testing.assert_allclose(shift, scale, atol=2e-5 * largest)
        assert np.abs(shift - other).max() > 1e-2 * largest


def test_patterns_choose_among_norms():
    adapter, _, _, v, _ = made(targets=("input_layernorm",))
    assert [layer.name for layer in adapter.layers] == NORMS[:1]
    found = jax.jit(adapter.merge)(v)
    assert jnp.array_equal(found["norm"]["scale"], v["params"]["norm"]["scale"])
    with pytest.raises(ValueError, match=r"'q_proj' names no norm of the model.*input_layernorm"):
        made(targets=("q_proj",))


def test_layer_norms_are_adapted_too():
    model = nn.Sequential([nn.LayerNorm(), nn.Dense(3), nn.RMSNorm()])
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8)), jnp.float32)
    adapter = adapt(model, x, method="shifted", targets=["*"])
    params = model.init(jax.random.key(0), x)["params"]
    d = jax.tree.map(lambda leaf: leaf + 0.5, adapter.init_d(params, {}))
    v = {"params": params, "frozen": {}, "d": d}
    assert [layer.kernel_shape for layer in adapter.layers] == [(8,), (3,)]
    found = adapter.apply(model, v, x)
    assert jnp.array_equal(found, model.apply({"params": adapter.merge(v)}, x))
    assert not jnp.allclose(found, model.apply({"params": params}, x), atol=0.1)


def test_every_scale_counts(capsys):
    argv = ["--model=smollm2-135m", "--method=shifted", "--json"]
    count.main([*argv, "--targets", "*norm"])
    assert json.loads(capsys.readouterr().out)["trained"] == (2 * 30 + 1) * 576
    count.main([*argv, "--targets", "norm"])
    assert json.loads(capsys.readouterr().out)["trained"] == 576
    count.main(argv)  # without targets, those of the method
    assert json.loads(capsys.readouterr().out)["trained"] == (2 * 30 + 1) * 576


def test_an_adapter_survives_the_round_trip(tmp_path):
    adapter, _, first, v, _ = made()
    save_adapter(tmp_path / "a", adapter, v, "base")
    loaded, found = load_adapter(tmp_path / "a", v["params"])
    assert loaded == adapter
    assert small_llama.equal(found, v)
    assert not small_llama.equal(found["d"], first["d"])


def test_a_quantised_base_is_adapted_and_merged_to_plain_weights():
    adapter, model, _, v, tokens_BL = made()
    v = {**v, "params": quantize.quantize(v["params"], "int8", block=16)}
    found = small_llama.adapted(adapter, model, v, tokens_BL)
    merged = jax.jit(adapter.merge)(v)
    assert not quantize.any_quantized(merged)
    expected = small_llama.plain(model, merged, tokens_BL)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.ptp(expected))
    base = small_llama.plain(model, quantize.dequantize(v["params"]), tokens_BL)
    assert np.abs(found - base).max() > 1e-2 * np.ptp(base)
    with pytest.raises(NotMergeableError, match="shifted changes no kernel"):
        merge_quantized(adapter, v)


def test_a_run_trains_the_scales_and_goes_on_from_a_checkpoint(tiny_llama, records_path, tmp_path):
    d, one, two = small_llama.real_run(
        "shifted", ("*norm",), tiny_llama, records_path, tmp_path / "run"
    )
    assert set(one) == {"layers", "norm"}
    assert small_llama.equal(one, two)
    assert not small_llama.equal(one, d)
