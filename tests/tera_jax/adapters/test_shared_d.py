"""A method whose layers all read one trained vector, as Uni-LoRA's do."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import load_adapter, methods, quantize, save_adapter
from tera_jax.adapters.quantized_merge import merge_quantized
from tera_jax.adapters.targets import get, put
from tera_jax.methods.base import LinearMethod
from tests.marks import quick_only
from tests.tera_jax.adapters import small_llama
from train.params import count

TARGETS = ("q_proj", "v_proj")
PATHS = [("layers", "self_attn", name) for name in TARGETS]


@dataclasses.dataclass(frozen=True)
class Gathered(LinearMethod):
    """The update A B: A's entries are of the first half of theta, B's of the second."""

    size: int = 40
    rank: int = 3
    own: bool = False  # a scale of each output beside theta
    seed: int = 0

    def init_frozen(self, key, kernel, layer):
        rows, columns = layer.kernel_shape
        a_key, b_key = jax.random.split(key)
        half = self.size // 2
        return {
            "a": jax.random.randint(a_key, (rows, self.rank), 0, half),
            "b": jax.random.randint(b_key, (self.rank, columns), half, self.size),
        }

    def init_shared_d(self, key, layers):
        half = self.size // 2
        return {"theta": jnp.where(jnp.arange(self.size) < half, 0.3, 0.0).astype(jnp.float32)}

    def init_d(self, key, kernel, frozen, layer):
        return {"scale": jnp.ones(layer.kernel_shape[1], jnp.float32)} if self.own else {}

    def _factors(self, frozen, d, dtype):
        a_IR, b_RO = (d["theta"][frozen[name]].astype(dtype) for name in "ab")
        return a_IR, b_RO * d["scale"].astype(dtype)[None] if self.own else b_RO

    def delta(self, frozen, d, kernel, layer):
        return jnp.matmul(*self._factors(frozen, d, jnp.float32), precision="highest")

    def branch(self, frozen, d, kernel, x, layer):
        a_IR, b_RO = self._factors(frozen, d, x.dtype)
        return x @ a_IR @ b_RO


@pytest.fixture(autouse=True, scope="module")
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(methods.TABLE, "gathered", Gathered)
        yield


def made(variant="scan", own=False):
    return small_llama.made("gathered", Gathered(own=own), TARGETS, variant)


@pytest.mark.parametrize("own", [False, True])
def test_theta_stands_once_and_the_indices_with_every_layer(own):
    adapter, _, v, _, _ = made(own=own)
    assert jax.tree.map(jnp.shape, v["d"]["shared"]) == {"gathered": {"theta": (40,)}}
    assert ("layers" in v["d"]) == own
    index_a = [get(v["frozen"], (*path, "gathered"))["a"] for path in PATHS]
    assert {index.shape for index in index_a} == {(2, 32, 3)}
    rows = {tuple(np.ravel(index[layer])) for index in index_a for layer in range(2)}
    assert len(rows) == 4
    assert all(index.dtype == jnp.int32 for index in index_a)
    assert adapter.regenerates


@pytest.mark.parametrize("variant", quick_only([*small_llama.VARIANTS][:1], small_llama.VARIANTS))
@pytest.mark.parametrize("own", [False, True])
def test_at_step_0_it_is_the_base_and_then_the_merged_model(variant, own):
    adapter, model, first, moved, tokens_BL = made(variant, own)
    base = small_llama.plain(model, first["params"], tokens_BL)
    assert jnp.array_equal(small_llama.adapted(adapter, model, first, tokens_BL), base)
    assert small_llama.equal(adapter.merge(first), first["params"])
    found = small_llama.adapted(adapter, model, moved, tokens_BL)
    merged = small_llama.plain(model, jax.jit(adapter.merge)(moved), tokens_BL)
    np.testing.assert_allclose(found, merged, atol=2e-5 * np.ptp(base))
    assert np.abs(found - base).max() > 1e-2 * np.ptp(base)


@pytest.mark.parametrize("variant", quick_only([*small_llama.VARIANTS][:1], small_llama.VARIANTS))
def test_theta_has_the_gradients_of_all_layers(variant):
    """Against kernels made by hand, for which every layer has a theta of its own."""
    adapter, model, _, v, tokens_BL = made(variant)

    def adapted_loss(d):
        logits_BLV, _ = adapter.apply(model, {**v, "d": d}, tokens_BL)
        return small_llama.loss(logits_BLV, tokens_BL)

    def loss_by_hand(thetas):
        params = jax.tree.map(lambda leaf: leaf, v["params"])
        for path, theta_NP in zip(PATHS, thetas, strict=True):
            index = get(v["frozen"], (*path, "gathered"))
            a_NIR, b_NRO = (jax.vmap(lambda t, i: t[i])(theta_NP, index[name]) for name in "ab")
            kernel_NIO = get(params, (*path, "kernel"))
            put(params, (*path, "kernel"), kernel_NIO + jnp.einsum("nir,nro->nio", a_NIR, b_NRO))
        return small_llama.loss(model.apply({"params": params}, tokens_BL)[0], tokens_BL)

    theta = v["d"]["shared"]["gathered"]["theta"]
    found = jax.jit(jax.grad(adapted_loss))(v["d"])["shared"]["gathered"]["theta"]
    each = jnp.stack(jax.jit(jax.grad(loss_by_hand))([jnp.stack([theta, theta])] * 2))
    np.testing.assert_allclose(found, each.sum((0, 1)), atol=2e-5 * np.abs(found).max())
    for module, layer in np.ndindex(2, 2):  # without any of them it is another gradient
        assert np.abs(each[module, layer]).max() > 1e-2 * np.abs(found).max()


def test_theta_counts_once(capsys):
    argv = ["--model=smollm2-135m", "--method=gathered", "--json", "--set", "size=1000"]
    count.main(argv)
    assert json.loads(capsys.readouterr().out)["trained"] == 1000
    count.main([*argv, "own=True"])
    assert json.loads(capsys.readouterr().out)["trained"] == 1000 + 30 * (576 + 192)


@pytest.mark.parametrize("own", [False, True])
def test_an_adapter_survives_the_round_trip(own, tmp_path):
    adapter, _, first, v, _ = made(own=own)
    save_adapter(tmp_path / "a", adapter, v, "base", with_frozen=own)
    loaded, found = load_adapter(tmp_path / "a", v["params"])
    assert loaded == adapter
    assert small_llama.equal(found, v)
    assert not small_llama.equal(found["d"], first["d"])


def test_a_quantised_base_is_adapted_and_merged():
    adapter, model, _, v, tokens_BL = made(own=True)
    v = {**v, "params": quantize.quantize(v["params"], "int8", block=16)}
    found = small_llama.adapted(adapter, model, v, tokens_BL)
    plain = jax.jit(adapter.merge)(v)
    expected = small_llama.plain(model, plain, tokens_BL)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.ptp(expected))
    merged, error = jax.jit(lambda v: merge_quantized(adapter, v))(v)
    assert 0 < error.total < 0.01
    for path in PATHS:
        kernel, base = (get(each, (*path, "kernel")) for each in (merged, v["params"]))
        wanted = get(plain, (*path, "kernel"))
        assert quantize.is_quantized(kernel)
        lost = jnp.linalg.norm(kernel.dequantize() - wanted)
        assert lost < 0.01 * jnp.linalg.norm(wanted)
        assert jnp.linalg.norm(base.dequantize() - wanted) > 5 * lost


def test_a_run_trains_theta_and_goes_on_from_a_checkpoint(tiny_llama, records_path, tmp_path):
    d, one, two = small_llama.real_run(
        "gathered", TARGETS, tiny_llama, records_path, tmp_path / "run"
    )
    assert list(one) == ["shared"]
    assert small_llama.equal(one, two)
    assert not small_llama.equal(one, d)


def test_a_name_cannot_be_both_shared_and_a_layers_own(monkeypatch):
    monkeypatch.setattr(Gathered, "init_d", lambda self, *_: {"theta": jnp.ones(2)})
    adapter, model, first, _, tokens_BL = made()
    with pytest.raises(ValueError, match=r"\['theta'\] are both a layer's own d and shared"):
        adapter.apply(model, first, tokens_BL)
