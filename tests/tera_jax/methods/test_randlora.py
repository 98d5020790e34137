"""RandLoRA beside PEFT's: layers of several shapes, its bases, counts and refusals.

tests/tera_jax/io/test_peft.py compares a whole decoder.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tera_jax import load_adapter
from tera_jax.fingerprint import fingerprint
from tera_jax.methods import TargetLayer
from tera_jax.methods.base import bind
from tera_jax.methods.randlora import RandLoRA
from tera_jax.random import seed_key
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.io.peft_models import made, our_base, write, write_bases
from tests.tera_jax.methods.one_layer import OnLayer
from train.params import count

SHAPES = {"q": (16, 16), "k": (16, 10), "up": (16, 24), "down": (24, 16)}
SITES = tuple(TargetLayer((name,), shape) for name, shape in SHAPES.items())
FIELDS = ({"r": 3}, {"r": 8}, {"r": 20}, {"r": 3, "sparse": True}, {"r": 4, "very_sparse": True})
CASES = [(fields, tokens) for tokens in (2, 40) for fields in FIELDS]  # 40 make ΔW
DOWN = "base_model.model.model.layers.1.mlp.down_proj.randlora"


def theirs(**fields):
    """PEFT's layers, perturbed, the kernels below them and the bases."""
    torch.manual_seed(0)
    base = torch.nn.ModuleDict({k: torch.nn.Linear(*v, bias=False) for k, v in SHAPES.items()})
    kernels = {k: jnp.asarray(base[k].weight.detach().numpy().T) for k in SHAPES}
    config = peft.RandLoraConfig(target_modules=list(SHAPES), randlora_alpha=6, **fields)
    model = peft.get_peft_model(base, config).base_model
    a, b = model.randlora_A["default"].double(), model.randlora_B["default"].double()
    frozen = {"a": jnp.asarray(a.numpy()[:, 0]), "b": jnp.asarray(b.numpy())}
    for name in ("randlora_A", "randlora_B"):  # of half precision
        getattr(model, name)["default"] = getattr(model, name)["default"].double()
    return {k: model.model[k] for k in SHAPES}, kernels, frozen


def weighted(apply, weight):
    """d -> a weighted sum of the outputs, and the outputs."""

    def loss(d):
        ours = apply(d)
        return jnp.sum(weight * ours), ours

    return loss


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(("fields", "tokens"), quick_only(CASES[:1], CASES, names=2))
def test_outputs_gradients_and_merged_kernels_are_those_of_peft(fields, tokens):
    layers, kernels, frozen = theirs(**fields)
    for site in SITES:
        method = OnLayer(RandLoRA(rank=fields["r"], alpha=6.0), SITES)
        method.layer = next(each for each in method.layers if each.path == site.path)
        layer, kernel = layers[site.name], kernels[site.name]
        like = jax.eval_shape(method.init_frozen, seed_key(0), kernel)
        assert jax.tree.map(jnp.shape, frozen) == jax.tree.map(jnp.shape, like)
        initial = method.init_d(seed_key(0), kernel, frozen)
        trained = {
            "lam": layer.randlora_lambda["default"],
            "gamma": layer.randlora_gamma["default"],
        }
        d = {}
        for key, parameter in trained.items():
            start = parameter.detach().numpy()
            assert np.array_equal(initial[key], start.astype(np.float32))
            parameter.data += torch.randn_like(parameter)
            d[key] = jnp.asarray(parameter.detach().numpy())
        inputs, outputs = SHAPES[site.name]
        x, weight = torch.randn(1, tokens, inputs), torch.randn(1, tokens, outputs)
        y = layer(x)
        (weight * y).sum().backward()

        apply = functools.partial(method.apply, frozen, kernel=kernel, x=jnp.asarray(x.numpy()))
        loss = jax.jit(weighted(apply, jnp.asarray(weight.numpy())))
        grads, ours = jax.grad(loss, has_aux=True)(d)
        expected = y.detach().numpy()
        within(np.abs(ours - expected).max(), 1e-12 * np.ptp(expected))
        for key, parameter in trained.items():
            gradient = parameter.grad.numpy()
            within(np.abs(grads[key] - gradient).max(), 1e-12 * np.abs(gradient).max())
        _, other = loss({**d, "lam": d["lam"][::-1]})
        assert np.abs(other - expected).max() > 1e-3 * np.ptp(expected)
        layer.merge()
        merged = layer.get_base_layer().weight.detach().numpy().T
        within(np.abs(method.merge(frozen, d, kernel) - merged).max(), 1e-12 * np.ptp(merged))


@pytest.mark.parametrize(("tokens", "made_there"), [(1, False), (200, True)])
def test_the_kernel_is_made_for_many_tokens_alone(tokens, made_there):
    method = RandLoRA(rank=8)
    (layer,) = bind(method, [TargetLayer(("q",), (40, 48))])
    kernel = jnp.zeros((40, 48))
    frozen = method.init_frozen(seed_key(0), kernel, layer)
    d = method.init_d(seed_key(0), kernel, frozen, layer)
    program = jax.make_jaxpr(lambda d, x: method.branch(frozen, d, kernel, x, layer))
    made_here = "f32[40,48] = dot_general" in str(program(d, jnp.ones((tokens, 40)))) or (
        ":f32[40,48] = dot_general" in str(program(d, jnp.ones((tokens, 40))))
    )
    assert made_here == made_there


def test_the_bases_are_shared_of_the_largest_sides_and_have_unit_variance():
    method = RandLoRA(rank=30)
    layers = bind(method, [TargetLayer(("q",), (200, 40)), TargetLayer(("v",), (50, 100))])
    assert {method.frozen_set(layer) for layer in layers} == {"200x100"}
    arrays = jax.jit(lambda key: method.init_frozen(key, None, layers[0]))(seed_key(0))
    assert jax.tree.map(jnp.shape, arrays) == {"a": (30, 100), "b": (200, 4, 30)}
    for array in arrays.values():
        assert np.abs(array).max() < np.sqrt(3)
        within(abs(np.std(array) - 1), 0.02, of_draws=True)
        within(abs(np.mean(array)), 0.05, of_draws=True)
    other = jax.jit(lambda key: method.init_frozen(key, None, layers[0]))(seed_key(1))
    assert fingerprint(other) != fingerprint(arrays)


def test_both_vectors_of_every_basis_are_trained(capsys):
    argv = ["--model=llama-2-7b", "--method=randlora", "--json"]
    for rank, bases in ((32, 128), (100, 41)):
        count.main([*argv, "--set", f"rank={rank}"])
        found = json.loads(capsys.readouterr().out)
        assert found["trained"] == 2 * 32 * (rank * bases + bases * 4096)
        assert set(found["max_rank"].values()) == {4096}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_bases(tmp_path_factory.mktemp("base"))[False]


@pytest.fixture
def saved(base, tmp_path):
    config = peft.RandLoraConfig(r=6, target_modules=["q_proj", "down_proj"])
    made(base, config, tmp_path / "a")
    return tmp_path / "a", our_base(base)[1]


def test_copies_of_the_bases_are_compared(saved):
    path, params = saved
    file = path / "adapter_model.safetensors"
    arrays = load_file(file)
    _, variables = load_adapter(path, params)
    (bases,) = variables["frozen"]["shared"].values()
    assert np.array_equal(bases["b"], arrays["base_model.randlora_B"])
    save_file({k: v for k, v in arrays.items() if not k.startswith(f"{DOWN}_B")}, file)
    load_adapter(path, params)
    for message, changed in (
        (
            f"{DOWN}_A in .* is another than base_model.randlora_A",
            {f"{DOWN}_A": arrays[f"{DOWN}_A"] * 2},
        ),
        (f"{DOWN}_lambda in .* has shape", {f"{DOWN}_lambda": arrays[f"{DOWN}_lambda"][1:].copy()}),
        (r"has arrays \['x'\] that randlora does not have", {"x": np.ones(2, np.float32)}),
        ("randlora_B in .* has shape", {"base_model.randlora_B": np.ones((48, 6), np.float32)}),
    ):
        save_file({**arrays, **changed}, file)
        with pytest.raises(ValueError, match=message):
            load_adapter(path, params)


@pytest.mark.filterwarnings("ignore:Specified to not save basis_A:UserWarning")
def test_an_adapter_without_its_bases_is_refused(base, tmp_path):
    config = peft.RandLoraConfig(r=6, target_modules=["q_proj"], save_projection=False)
    made(base, config, tmp_path / "a")
    with pytest.raises(ValueError, match=r"lacks RandLoRA's bases, .* save_projection=True"):
        load_adapter(tmp_path / "a", our_base(base)[1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bias": "randlora_only"}, "sets bias to 'randlora_only'"),
        ({"fan_in_fan_out": True}, "sets fan_in_fan_out to True"),
        ({"randlora_alpha": 0}, "sets randlora_alpha to 0"),
        ({"r": 7}, r"randlora_A in .* has shape \(6, 1, 32\), but .* make it \(7, 1, 32\)"),
        ({"layers_to_transform": [1]}, "sets layers_to_transform to"),
    ],
)
def test_what_is_not_read_is_refused_by_name(saved, fields, message):
    write(saved[0], **fields)
    with pytest.raises(ValueError, match=message):
        load_adapter(*saved)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"rank": 0}, "rank 0"), ({"alpha": 0.0}, r"alpha 0\.0"), ({"dropout": 1.0}, r"dropout 1\.0")],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RandLoRA(**fields)
