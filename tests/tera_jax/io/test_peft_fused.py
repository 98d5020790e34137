"""Adapters of a Phi-3, whose files fuse q, k and v, and gate and up, cross to PEFT and back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from tera_jax import adapt, load_adapter
from tera_jax.io.adapter_files import save_peft
from tera_jax.io.peft.modules import target_layers
from tera_jax.llama import LlamaConfig
from tera_jax.methods import TABLE
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.io.peft_models import SIZES, TOKENS, made, our_base, torch_base, torch_logits
from train import export

QKV = ["qkv_proj", "o_proj"]
LORA = {"r": 4, "lora_alpha": 6}
THEIRS = {
    "lora": lambda: peft.LoraConfig(**LORA, target_modules=QKV),
    "rslora": lambda: peft.LoraConfig(**LORA, target_modules=["gate_up_proj"], use_rslora=True),
    "patterns": lambda: peft.LoraConfig(
        **LORA,
        target_modules=[*QKV, "gate_up_proj", "down_proj"],
        rank_pattern={"qkv_proj": 6, r"layers\.1\.mlp\.gate_up_proj": 2},
        alpha_pattern={"gate_up_proj": 3},
    ),
    "dora": lambda: peft.LoraConfig(**LORA, target_modules=QKV, use_dora=True),
    "hira": lambda: peft.HiraConfig(r=3, target_modules=["qkv_proj", "gate_up_proj"]),
    "all-linear": lambda: peft.LoraConfig(**LORA, target_modules="all-linear"),
    "expression": lambda: peft.LoraConfig(**LORA, target_modules=r".*\.(qkv|down)_proj"),
}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OURS = {
    "lora": ("lora", {"rank": 4, "alpha": 6.0}, ["q_proj", "v_proj"]),
    "lora of all": ("lora", {"rank": 4, "alpha": 6.0}, ALL),
    "lora of one part": ("lora", {"rank": 4, "alpha": 6.0}, ["k_proj", "down_proj"]),
    "dora": ("dora", {"rank": 4, "alpha": 6.0}, ALL[:4]),
    "dora of parts": ("dora", {"rank": 4, "alpha": 6.0}, ["q_proj", "v_proj", "down_proj"]),
    "hira": ("hira", {"rank": 3}, ["k_proj", "up_proj", "down_proj"]),
    "pissa": ("pissa", {"rank": 4, "alpha": 6.0}, ["q_proj", "v_proj"]),
    "unires": ("unires", {"rank": 4, "init_bound": 0.3}, ["q_proj", "gate_proj"]),
    "vera": ("vera", {"rank": 12}, ["o_proj"]),
    "ln_tuning": ("ln_tuning", {}, None),
}
INEXACT = {
    "vera": lambda: peft.VeraConfig(r=12, target_modules=QKV),
    "unilora": lambda: peft.UniLoraConfig(r=4, theta_d_length=100, target_modules=QKV),
    "fourierft": lambda: peft.FourierFTConfig(n_frequency=60, target_modules=QKV),
    "randlora": lambda: peft.RandLoraConfig(r=5, target_modules=QKV),
    "vblora": lambda: peft.VBLoRAConfig(r=3, num_vectors=20, vector_length=8, target_modules=QKV),
    "pissa": lambda: peft.LoraConfig(r=4, target_modules=QKV, init_lora_weights="pissa"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    path = tmp_path_factory.mktemp("phi3")
    transformers.Phi3ForCausalLM(transformers.Phi3Config(**SIZES, **ids)).save_pretrained(path)
    return path


def logits(adapter, model, variables):
    tokens_BL = jnp.asarray(TOKENS, jnp.int32)
    return np.asarray(jax.jit(lambda v: adapter.apply(model, v, tokens_BL)[0])(variables))


def assert_close(found, expected, base, limit=1e-12):
    within(np.abs(found - expected).max(), limit * np.ptp(expected))
    assert np.abs(expected - torch_logits(torch_base(base))).max() > 1e-3 * np.ptp(expected)


def moved(base, name, settings, targets):
    """An adapter whose trainable arrays are all moved, its model and its variables."""
    model, params = our_base(base)
    config, tokens = TABLE[name](**settings), jnp.ones((1, 2), jnp.int32)
    adapter = adapt(model, tokens, method=name, config=config, targets=targets)
    frozen = jax.jit(adapter.init_frozen)(params)
    random = np.random.default_rng(0)

    def move(leaf):
        return jnp.asarray(np.asarray(leaf) + 0.05 * random.standard_normal(leaf.shape))

    d = jax.tree.map(move, jax.jit(adapter.init_d)(params, frozen))
    dtype = jnp.asarray(1.0).dtype
    frozen, d = jax.tree.map(lambda v: v if v.dtype == jnp.int32 else v.astype(dtype), (frozen, d))
    return adapter, model, {"params": params, "frozen": frozen, "d": d}


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("case", quick_only(["dora"], THEIRS))
def test_an_adapter_of_fused_layers_made_by_peft_gives_the_same_logits_here(base, tmp_path, case):
    expected = torch_logits(made(base, THEIRS[case](), tmp_path / "a"))
    model, params = our_base(base)
    adapter, variables = load_adapter(tmp_path / "a", params)
    adapted = {layer.path[-1] for layer in adapter.layers}
    assert adapted & {"q_proj", "gate_proj"}
    assert {"q_proj", "k_proj", "v_proj"} <= adapted or not {"q_proj", "k_proj"} & adapted
    assert_close(logits(adapter, model, variables), expected, base)


@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("case", quick_only(["dora"], OURS))
def test_an_adapter_trained_here_gives_the_same_logits_in_peft(base, tmp_path, case):
    adapter, model, variables = moved(base, *OURS[case])
    save_peft(tmp_path / "a", adapter, variables, str(base), model.config)
    loaded = peft.PeftModel.from_pretrained(torch_base(base), tmp_path / "a")
    expected = logits(adapter, model, variables)
    # The norms of columns that are not adapted are float32.
    limit = 1e-6 if case == "dora of parts" else 1e-12
    assert_close(torch_logits(loaded), expected, base, limit)
    again, found = load_adapter(tmp_path / "a", variables["params"])
    assert_close(logits(again, model, found), expected, base, limit)


@pytest.mark.long
def test_what_is_written_has_one_rank_and_the_names_of_the_files(base, tmp_path):
    adapter, model, variables = moved(base, *OURS["lora"])
    save_peft(tmp_path / "a", adapter, variables, str(base), model.config)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 12.0)
    assert config["target_modules"] == ["qkv_proj"]
    arrays = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert len(arrays) == 2 * 2
    b_OR = arrays["base_model.model.model.layers.1.self_attn.qkv_proj.lora_B.weight"]
    assert b_OR.shape == (64, 8)
    query, key, value = b_OR[:32], b_OR[32:48], b_OR[48:]
    assert np.all(query[:, :4] != 0)
    assert np.all(value[:, 4:] != 0)
    for zeros in (query[:, 4:], key, value[:, :4]):
        assert np.all(zeros == 0)


@pytest.mark.parametrize("name", quick_only(["vera"], sorted({*INEXACT} - {"pissa"})))
def test_methods_that_differ_on_the_whole_are_refused_before_training(base, tmp_path, name):
    model, params = our_base(base)
    small = {"vblora": {"vector_length": 8}, "fourierft": {"num_frequencies": 9}}
    settings = TABLE[name](**small.get(name, {}))
    how = {"method": name, "config": settings, "targets": ["v_proj", "o_proj"]}
    adapter = adapt(model, jnp.ones((1, 2), jnp.int32), **how)
    with pytest.raises(ValueError, match=f"'peft' of method '{name}' on v_proj, which this base's"):
        save_peft(tmp_path / "a", adapter, {"params": params, "d": {}}, "base", model.config)
    assert not (tmp_path / "a").exists()
    formats = ("adapter", "peft")
    with pytest.raises(ValueError, match=f"method '{name}' on v_proj"):
        export.require_layers(formats, model.config, adapter)
    export.require_layers(("adapter",), model.config, adapter)
    llama = LlamaConfig(*(96, 32, 48, 2, 4, 2, 8, 64, 1e-5))
    export.require_layers(formats, llama, adapter)


@pytest.mark.filterwarnings("ignore:Specified to save:UserWarning")
@pytest.mark.parametrize("name", quick_only(["vera"], INEXACT))
def test_peft_adapters_of_the_whole_that_differ_on_its_parts_are_refused(base, tmp_path, name):
    made(base, INEXACT[name](), tmp_path / "a")
    _, params = our_base(base)
    with pytest.raises(ValueError, match=r"adapts qkv_proj, which here is .*_proj, .*merge it"):
        load_adapter(tmp_path / "a", params)


@pytest.mark.parametrize(
    "targets",
    [["o_proj", "qkv_proj"], ["self_attn.qkv_proj"], r".*\.(qkv|up)_projs?", r".*gate_up_proj"],
)
def test_names_of_fused_modules_without_their_arrays_are_refused(tmp_path, targets):
    config = {"target_modules": targets, "modules_to_save": None, "peft_type": "UNILORA"}
    with pytest.raises(ValueError, match=r"adapts (qkv|gate_up)_proj, which here is .*merge it"):
        target_layers(tmp_path, config, {})
