"""What the keys of PEFT's configurations do, beside PEFT itself in float64."""

import functools
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file

from tera_jax import load_adapter
from tera_jax.llama import Llama
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.io.peft_models import (
    PREFIX,
    QV,
    SAVED_LAYERS,
    TOKENS,
    made,
    our_base,
    torch_base,
    torch_logits,
    write,
    write_bases,
)

PATTERNS = {
    "rank_pattern": {r"layers\.1\.self_attn\.q_proj": 6, "v_proj": 2},
    "alpha_pattern": {"layers.0.self_attn.v_proj": 9.5, r".*1\..*\.q_proj": 1},
}
LORA, HIRA = peft.LoraConfig, peft.HiraConfig
CASES = {
    "defaults": lambda: LORA(),
    "patterns": lambda: LORA(**QV, **PATTERNS),
    "patterns of rslora": lambda: LORA(**QV, **PATTERNS, use_rslora=True),
    "patterns of dora": lambda: LORA(**QV, **PATTERNS, use_dora=True),
    "patterns of hira": lambda: HIRA(
        r=4, target_modules=QV["target_modules"], rank_pattern=PATTERNS["rank_pattern"]
    ),
    "rslora": lambda: LORA(**QV, use_rslora=True),
    "start False": lambda: LORA(**QV, init_lora_weights=False),
    "start gaussian": lambda: LORA(**QV, init_lora_weights="gaussian"),
    "start orthogonal": lambda: LORA(**QV, init_lora_weights="orthogonal"),
    "start mica": lambda: LORA(**QV, init_lora_weights="mica"),
    "start eva": lambda: LORA(**QV, init_lora_weights="eva", eva_config=peft.EvaConfig()),
    "all-linear": lambda: LORA(target_modules="all-linear"),
    "regular expression": lambda: LORA(target_modules=r".*\.(k|down)_proj"),
    "excluded": lambda: LORA(
        target_modules=["q_proj", "o_proj", "up_proj"], exclude_modules=r".*\.mlp\..*"
    ),
    "all layers": lambda: LORA(**QV, layers_to_transform=[0, 1], layers_pattern="layers"),
    "head": lambda: LORA(target_modules=["q_proj", "lm_head"]),
    "saved head": lambda: LORA(**QV, modules_to_save=["lm_head"]),
    "saved both": lambda: LORA(**QV, modules_to_save=["lm_head", "embed_tokens"]),
    "saved both, tied": lambda: LORA(
        **QV, modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return write_bases(tmp_path_factory.mktemp("bases"))


@functools.partial(jax.jit, static_argnames="config")
def forward(params, config):
    model = Llama(config, dtype=jax.tree.leaves(params)[0].dtype)
    return model.apply({"params": params}, jnp.asarray(TOKENS, jnp.int32))[0]


@SAVED_LAYERS
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("case", quick_only([*CASES][::2], CASES))
def test_logits_are_those_of_peft(bases, tmp_path, case):
    base = bases[case.endswith("tied")]
    model = made(base, CASES[case](), tmp_path / "a")
    ours, params = our_base(base)
    adapter, variables = load_adapter(tmp_path / "a", params)
    found = forward(adapter.merge(variables), ours.config)
    expected = torch_logits(model)
    within(np.abs(found - expected).max(), 1e-12 * np.ptp(expected))
    assert np.abs(expected - forward(params, ours.config)).max() > 1e-3 * np.ptp(expected)
    if "patterns" in case:
        config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
        assert adapter.method.rank == (4 if "hira" in case else 6)  # PEFT 0.21 makes HiRA's of r
        if "alpha_pattern" in config:
            write(tmp_path / "a", alpha_pattern={})
            plain = forward(load_merged(tmp_path / "a", params), ours.config)
            assert np.abs(plain - expected).max() > 1e-3 * np.ptp(expected)


def load_merged(path, params):
    adapter, variables = load_adapter(path, params)
    return adapter.merge(variables)


@pytest.mark.filterwarnings("ignore:OLoRA changes the base weights:UserWarning")
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("start", ["olora", "pissa_niter_4"])
def test_a_start_that_is_refused_can_be_saved_as_the_remedy_says(bases, tmp_path, start):
    torch.manual_seed(1)
    model = peft.get_peft_model(torch_base(bases[False]), LORA(**QV, init_lora_weights=start))
    model.save_pretrained(tmp_path / "start")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "as it is")
    first = str(tmp_path / "start")
    model.save_pretrained(tmp_path / "a", path_initial_model_for_weight_conversion=first)
    ours, params = our_base(bases[False])
    with pytest.raises(ValueError, match="path_initial_model_for_weight_conversion"):
        load_adapter(tmp_path / "as it is", params)
    found = forward(load_merged(tmp_path / "a", params), ours.config)
    expected = torch_logits(model)
    within(np.abs(found - expected).max(), 1e-12 * np.ptp(expected))


@pytest.mark.usefixtures("in_float64")
def test_absent_keys_are_peft_s_defaults(bases, tmp_path):
    model = made(bases[False], LORA(), tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    write(tmp_path / "a", **dict.fromkeys(set(config) - {"peft_type"}, ...))
    ours, params = our_base(bases[False])
    found = forward(load_merged(tmp_path / "a", params), ours.config)
    expected = torch_logits(model)
    within(np.abs(found - expected).max(), 1e-12 * np.ptp(expected))


@pytest.mark.usefixtures("in_float64")
def test_zeros_that_pad_a_rank_have_no_gradient(bases, tmp_path):
    made(bases[False], LORA(**QV, **PATTERNS), tmp_path / "a")
    ours, params = our_base(bases[False])
    adapter, variables = load_adapter(tmp_path / "a", params)

    def loss(d):
        logits = adapter.apply(ours, {**variables, "d": d}, jnp.asarray(TOKENS, jnp.int32))[0]
        return jnp.sum(jnp.sin(logits))

    grads = jax.jit(jax.grad(loss))(variables["d"])
    for name, ranks in {"q_proj": (4, 6), "v_proj": (2, 2)}.items():
        for tree, zero in ((variables["d"], True), (grads, True)):
            arrays = tree["layers"]["self_attn"][name]["lora"]
            for layer, rank in enumerate(ranks):
                a_IR, b_RO = arrays["a"][layer], arrays["b"][layer]
                assert a_IR.shape[1] == b_RO.shape[0] == 6
                assert (not a_IR[:, rank:].any() and not b_RO[rank:].any()) == zero
                assert jnp.all(jnp.any(a_IR[:, :rank] != 0, axis=0))
                assert jnp.all(jnp.any(b_RO[:rank] != 0, axis=1))


def test_patterns_that_overlap_are_read_in_the_order_of_the_file(bases, tmp_path, caplog):
    made(bases[False], LORA(**QV), tmp_path / "a")
    _, params = our_base(bases[False])
    moved = {}
    for order in (("q_proj", r"layers\.0.*"), (r"layers\.0.*", "q_proj")):
        patterns = {"q_proj": 12, r"layers\.0.*": 3}
        write(tmp_path / "a", alpha_pattern={key: patterns[key] for key in order})
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            merged = load_merged(tmp_path / "a", params)
        assert "all name 'model.layers.0.self_attn.q_proj'" in caplog.text
        kernel = params["layers"]["self_attn"]["q_proj"]["kernel"]
        moved[order[0]] = merged["layers"]["self_attn"]["q_proj"]["kernel"] - kernel
    first, second = moved.values()  # of layer 0 by alpha 12 and by 3, of layer 1 always by 12
    times = np.reshape([4, 1], (2, 1, 1)).astype(np.float32)
    np.testing.assert_allclose(first, second * times, atol=1e-6)
    assert np.abs(first).min(axis=(1, 2)).max() > 1e-6


def test_a_saved_module_takes_the_place_of_the_base_s(bases, tmp_path, caplog):
    made(bases[False], LORA(**QV, modules_to_save=["lm_head"]), tmp_path / "a")
    _, params = our_base(bases[False])
    with caplog.at_level(logging.WARNING):
        _, variables = load_adapter(tmp_path / "a", params)
    assert "brings its own lm_head in place of the base's" in caplog.text
    arrays = load_file(tmp_path / "a" / "adapter_model.safetensors")
    found = variables["params"]["lm_head"]["kernel"]
    assert np.array_equal(found, arrays[f"{PREFIX}lm_head.weight"].T)
    assert found.sharding == params["lm_head"]["kernel"].sharding
    assert not np.array_equal(found, params["lm_head"]["kernel"])
    assert variables["params"]["embed_tokens"] is params["embed_tokens"]
