"""LN-tuning beside PEFT's: start, one norm's outputs and gradients, counts, targets and refusals.

tests/tera_jax/io/test_peft.py compares a whole decoder.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tera_jax import load_adapter
from tera_jax.methods import TargetLayer
from tera_jax.methods.ln_tuning import LNTuning
from tera_jax.ops.rms_norm import RMSNorm
from tests.margins import within
from tests.tera_jax.adapters import small_llama
from tests.tera_jax.io.peft_models import (
    NORMS,
    made,
    our_base,
    torch_base,
    write,
    write_bases,
)
from train.params import count

pytestmark = NORMS
NAMES = ["input_layernorm", "norm", "post_attention_layernorm"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_bases(tmp_path_factory.mktemp("base"))[False]


@pytest.mark.usefixtures("in_float64")
def test_outputs_and_gradients_of_a_norm_are_those_of_peft():
    torch.manual_seed(0)
    norm = torch.nn.RMSNorm(12, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    layer = peft.get_peft_model(
        torch.nn.ModuleDict({"norm": norm}), peft.LNTuningConfig(target_modules=["norm"])
    ).base_model.model["norm"]
    parameter = layer.ln_tuning_layers["default"].weight
    site = TargetLayer(("norm",), (12,))
    base_D = jnp.asarray(norm.weight.detach().numpy())
    first = LNTuning().init_d(jax.random.key(0), base_D, site)
    assert first["scale"].dtype == jnp.float32
    assert np.array_equal(first["scale"], parameter.detach().numpy().astype(np.float32))
    parameter.data += torch.randn_like(parameter)
    x, weight = torch.randn(3, 4, 12), torch.randn(3, 4, 12)
    y = layer(x)
    (weight * y).sum().backward()

    def loss(scale):
        merged = LNTuning().merge({"scale": scale}, base_D, site)
        model = RMSNorm(1e-5, jnp.float64, jnp.float64)
        _, ours = model.apply({"params": {"scale": merged}}, jnp.asarray(x.numpy()))
        return jnp.sum(jnp.asarray(weight.numpy()) * ours), ours

    gradient, ours = jax.grad(loss, has_aux=True)(jnp.asarray(parameter.detach().numpy()))
    within(np.abs(ours - y.detach().numpy()).max(), 1e-12 * np.ptp(y.detach().numpy()))
    within(np.abs(gradient - parameter.grad.numpy()).max(), 1e-12 * np.ptp(parameter.grad.numpy()))
    assert np.abs(ours - norm(x).detach().numpy()).max() > 0.1


def test_the_base_is_kept_to_the_bit_and_the_trained_scale_takes_its_place():
    adapter, model, first, moved, tokens_BL = small_llama.made("ln_tuning", LNTuning(), None)
    base = small_llama.plain(model, first["params"], tokens_BL)
    assert jnp.array_equal(small_llama.adapted(adapter, model, first, tokens_BL), base)
    assert small_llama.equal(adapter.merge(first), first["params"])
    scale = adapter.merge(moved)["norm"]["scale"]
    assert jnp.array_equal(scale, moved["d"]["norm"]["ln_tuning"]["scale"])
    assert not jnp.allclose(scale, moved["params"]["norm"]["scale"], atol=0.05)


def test_the_scales_of_two_norms_a_block_and_the_last_are_trained(capsys):
    count.main(["--model=llama-2-7b", "--method=ln_tuning", "--json"])
    assert json.loads(capsys.readouterr().out)["trained"] == (2 * 32 + 1) * 4096


def test_peft_trains_as_many_by_default(base, tmp_path):
    theirs = made(base, peft.LNTuningConfig(task_type="CAUSAL_LM"), tmp_path / "a")
    trained = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    write(tmp_path / "a", target_modules=...)  # its default for a Llama
    adapter, variables = load_adapter(tmp_path / "a", our_base(base)[1])
    assert sorted(layer.path[-1] for layer in adapter.layers) == NAMES
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["d"])) == trained


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_modules": ["q_proj"]}, "adapts q_proj, of which LN_TUNING trains a copy, and"),
        ({"target_modules": "all-linear"}, "adapts q_proj, of which LN_TUNING trains a copy"),
        ({"target_modules": ["embed_tokens"]}, "adapts model.embed_tokens, and adapters of"),
        ({"target_modules": ["other"]}, r"sets target_modules to \['other'\], which this base"),
        ({"target_modules": r".*\.0\.input_layernorm"}, "input_layernorm is adapted in layers"),
        ({"exclude_modules": [7]}, r"sets exclude_modules to \[7\]"),
        ({"modules_to_save": ["norm"]}, "sets modules_to_save to .*, and 'norm' is none"),
        ({"layers_to_transform": [0]}, "has the unknown key 'layers_to_transform'"),
    ],
)
def test_what_is_not_read_is_refused_by_name(base, tmp_path, fields, message):
    made(base, peft.LNTuningConfig(target_modules=NAMES), tmp_path / "a")
    write(tmp_path / "a", **fields)
    with pytest.raises(ValueError, match=message):
        load_adapter(tmp_path / "a", our_base(base)[1])


def test_missing_extra_and_other_arrays_are_refused(base, tmp_path):
    made(base, peft.LNTuningConfig(target_modules=NAMES), tmp_path / "a")
    file, params = tmp_path / "a" / "adapter_model.safetensors", our_base(base)[1]
    arrays = load_file(file)
    name = "base_model.model.model.norm.ln_tuning_layers.weight"
    for message, changed in (
        (f"lacks the array {name}", {k: v for k, v in arrays.items() if k != name}),
        (f"{name} in .* has shape", {**arrays, name: arrays[name][:-1].copy()}),
        (r"has arrays \['x'\] that ln_tuning does not have", {**arrays, "x": arrays[name]}),
    ):
        save_file(changed, file)
        with pytest.raises(ValueError, match=message):
            load_adapter(tmp_path / "a", params)


def test_modules_to_save_are_read_beside_it(base, tmp_path):
    config = peft.LNTuningConfig(target_modules=["norm"], modules_to_save=["lm_head"])
    made(base, config, tmp_path / "a")
    _, params = our_base(base)
    _, variables = load_adapter(tmp_path / "a", params)
    assert not jnp.array_equal(
        variables["params"]["lm_head"]["kernel"], params["lm_head"]["kernel"]
    )
    assert torch_base(base).lm_head.weight.shape == params["lm_head"]["kernel"].shape[::-1]
