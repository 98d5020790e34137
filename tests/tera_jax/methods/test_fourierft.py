"""FourierFT beside PEFT's: the places of its entries, one layer both ways, counts and refusals.

tests/tera_jax/io/test_peft.py compares a whole decoder.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch

from tera_jax import load_adapter
from tera_jax.adapters.factory import make
from tera_jax.io.peft import fourierft as files
from tera_jax.methods import TargetLayer
from tera_jax.methods.base import bind
from tera_jax.methods.fourierft import AS_TORCH, FourierFT, first_of_permutation
from tests.margins import within
from tests.tera_jax.io.peft_models import made, our_base, write, write_bases
from tests.tera_jax.methods.one_layer import on_layer
from train.params import count


@pytest.mark.parametrize("total", [1, 2, 30, 1536, 4096 * 4096])
def test_places_are_those_of_torch(total):
    size = min(total, 200)
    for seed in (0, 777, 2**32 - 1):
        generator = torch.Generator().manual_seed(seed)
        expected = torch.randperm(total, generator=generator)[:size].numpy()
        assert np.array_equal(first_of_permutation(total, size, seed), expected)
    assert total <= 2 or not np.array_equal(first_of_permutation(total, size, 778), expected)


def test_places_of_the_largest_kernels_are_distinct():
    found = first_of_permutation(AS_TORCH, 2000, 777)
    assert len(set(found.tolist())) == 2000
    assert 0 <= found.min() < AS_TORCH / 100
    assert AS_TORCH * 0.99 < found.max() < AS_TORCH


def one_layer(shape, fields):
    """PEFT's layer, perturbed, and ours with the same entries."""
    torch.manual_seed(0)
    base = torch.nn.ModuleDict({"q": torch.nn.Linear(*shape, bias=False)})
    kernel = jnp.asarray(base["q"].weight.detach().numpy().T)
    config = peft.FourierFTConfig(target_modules=["q"], random_loc_seed=5, **fields)
    layer = peft.get_peft_model(base, config).base_model.model["q"]
    settings = {"num_frequencies": fields["n_frequency"], "scaling": fields["scaling"], "seed": 5}
    method = on_layer(FourierFT(**settings), (TargetLayer(("q",), shape),))
    layer.fourierft_spectrum["default"].data *= 1.5
    return layer, method, kernel


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("shape", [(12, 10), (9, 16), (7, 7)])
@pytest.mark.parametrize("frequencies", [3, 14, 40])  # 40 makes ΔW
def test_outputs_gradients_and_merged_kernels_are_those_of_peft(shape, frequencies):
    layer, method, kernel = one_layer(shape, {"n_frequency": frequencies, "scaling": 40.0})
    parameter = layer.fourierft_spectrum["default"]
    frozen = method.init_frozen(jax.random.key(0), kernel)
    places = layer.indices["default"].numpy()
    assert np.array_equal(frozen["column"], places[0])
    assert np.array_equal(frozen["row"], places[1])
    x, weight = torch.randn(3, 4, shape[0]), torch.randn(3, 4, shape[1])
    y = layer(x)
    (weight * y).sum().backward()

    @jax.jit
    def loss(c):
        ours = method.apply(frozen, {"c": c}, kernel, jnp.asarray(x.numpy()))
        return jnp.sum(jnp.asarray(weight.numpy()) * ours), ours

    c = jnp.asarray(parameter.detach().numpy())
    gradient, ours = jax.grad(loss, has_aux=True)(c)
    expected, theirs = y.detach().numpy(), parameter.grad.numpy()
    within(np.abs(ours - expected).max(), 1e-12 * np.ptp(expected))
    within(np.abs(gradient - theirs).max(), 1e-12 * np.abs(theirs).max())
    gradient, other = jax.grad(loss, has_aux=True)(jnp.roll(c, 1))
    assert np.abs(other - expected).max() > 1e-3 * np.ptp(expected)
    layer.merge()
    merged = layer.get_base_layer().weight.detach().numpy()
    within(np.abs(method.merge(frozen, {"c": c}, kernel).T - merged).max(), 1e-12 * np.ptp(merged))


@pytest.mark.parametrize(("frequencies", "made_there"), [(60, False), (65, True)])
def test_no_kernel_is_made_where_the_spectra_are_smaller(frequencies, made_there):
    (layer,) = bind(FourierFT(num_frequencies=frequencies), [TargetLayer(("q",), (32, 32))])
    method = FourierFT(num_frequencies=frequencies)
    kernel = jnp.zeros((32, 32))
    frozen = method.init_frozen(jax.random.key(0), kernel, layer)
    d = method.init_d(jax.random.key(0), kernel, frozen, layer)
    program = jax.make_jaxpr(lambda d, x: method.branch(frozen, d, kernel, x, layer))
    assert ("32,32" in str(program(d, jnp.ones((3, 32))))) == made_there


def test_the_places_follow_from_the_seed_and_the_shape_alone():
    layers = [TargetLayer((name,), shape) for name, shape in (("q", (8, 8)), ("v", (8, 4)))]
    method = FourierFT(num_frequencies=20)
    assert [method.frozen_set(layer) for layer in layers] == ["8x8", "8x4"]
    one, two = (method.init_frozen(jax.random.key(n), jnp.zeros((8, 8)), layers[0]) for n in (0, 1))
    other = FourierFT(num_frequencies=20, seed=1).init_frozen(
        jax.random.key(0), jnp.zeros((8, 8)), layers[0]
    )
    assert np.array_equal(one["row"], two["row"])
    assert not np.array_equal(one["row"], other["row"])


def test_the_entries_start_normal_or_at_zero():
    layer, kernel = TargetLayer(("q",), (80, 80)), jnp.zeros((80, 80))
    normal, zeros = (
        FourierFT(num_frequencies=4000, init=init).init_d(jax.random.key(0), kernel, {}, layer)["c"]
        for init in ("normal", "zeros")
    )
    within(abs(np.std(normal) - 1), 0.05, of_draws=True)
    assert normal.shape == zeros.shape == (4000,)
    assert not zeros.any()


def test_a_thousand_numbers_a_layer_are_trained(capsys):
    count.main(["--model=llama-2-7b", "--method=fourierft", "--json"])
    assert json.loads(capsys.readouterr().out)["trained"] == 2 * 32 * 1000


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_bases(tmp_path_factory.mktemp("base"))[False]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_frequency_pattern": {"q_proj": 7}}, "sets n_frequency_pattern to .*, not an empty"),
        ({"n_frequency": 41}, r"fourierft_spectrum in .* has shape \(40,\), but .* make it \(41,"),
        ({"n_frequency": 1025}, "describes no adapter of this base: num_frequencies 1025, but"),
        ({"random_loc_seed": None}, "sets random_loc_seed to None"),
        ({"random_loc_seed": 2**32}, "describes no adapter of this base: seed 4294967296"),
        ({"scaling": 0.0}, r"sets scaling to 0\.0"),
        ({"bias": "all"}, "sets bias to 'all'"),
    ],
)
def test_what_is_not_read_is_refused_by_name(base, tmp_path, fields, message):
    config = peft.FourierFTConfig(n_frequency=40, target_modules=["q_proj"], init_weights=True)
    made(base, config, tmp_path / "a")
    params = our_base(base)[1]
    adapter, _ = load_adapter(tmp_path / "a", params)
    assert adapter.method == FourierFT(num_frequencies=40, init="zeros")
    write(tmp_path / "a", **fields)
    with pytest.raises(ValueError, match=message):
        load_adapter(tmp_path / "a", params)


def test_a_kernel_whose_places_are_not_torchs_is_not_written():
    adapter = make("fourierft", FourierFT(), (TargetLayer(("up",), (8192, 28672)),))
    with pytest.raises(ValueError, match=r"kernel \(8192, 28672\) of layer 'up' has 214748364"):
        files.files(adapter, {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_frequencies": 0}, "num_frequencies 0"),
        ({"scaling": -1.0}, r"scaling -1\.0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FourierFT(**fields)


def test_more_frequencies_than_entries_are_refused():
    with pytest.raises(ValueError, match=r"num_frequencies 97, but the kernel \(12, 8\)"):
        bind(FourierFT(num_frequencies=97), [TargetLayer(("q",), (12, 8))])
