"""The files of published models are read, and the sizes known by name are theirs."""

import dataclasses

import jax
import pytest

from tera_jax.llama import LlamaConfig
from tera_jax.llama.family.rope_scaling import LinearScaling, LongRope
from tests.marks import quick_only
from tests.tera_jax.llama.family.published import PUBLISHED
from train.params import shapes


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_files_are_read_and_an_unknown_key_is_refused(model):
    raw = PUBLISHED[model]
    config = LlamaConfig.from_hf(raw)
    assert LlamaConfig.from_hf(config.to_hf()) == config
    with pytest.raises(ValueError, match="unknown key 'new_scale'"):
        LlamaConfig.from_hf(raw | {"new_scale": 2.0})
    if "text_config" in raw:
        text = raw["text_config"] | {"new_scale": 2.0}
        with pytest.raises(ValueError, match="unknown key 'new_scale'"):
            LlamaConfig.from_hf(raw | {"text_config": text})


# Numbers in the files of weights, of two bytes each, by the index that comes with them. Of Gemma 3
# the hub counts the vision tower too, which is the same in the sizes that have one; a projector of
# 1,152 inputs with its norm follows the width.
COUNTS = {
    "gemma-2-9b": 18_483_411_968 // 2,
    "phi-4": 29_319_014_400 // 2,
    "qwen2.5-7b": 15_231_233_024 // 2,
    "qwen2.5-72b": 145_412_407_296 // 2,
    "mistral-nemo-12b": 24_495_564_800 // 2,
    "gemma-3-12b": 12_187_325_040,
    "gemma-3-27b": 27_432_406_640,
}
_TOWER = 416_866_032
_NAMES = {"qwen2.5-72b": "Qwen2.5-72B", "mistral-nemo-12b": "Mistral-Nemo"}
_NAMES |= {"olmo-2-13b": "OLMo-2-13B", "qwen2.5-7b": "Qwen2.5-7B"}


@pytest.mark.parametrize("model", quick_only(["gemma-3-12b"], COUNTS))
def test_counts_are_those_of_the_files(model):
    params = shapes.parts(model, "lora", {}).params
    found = sum(leaf.size for leaf in jax.tree.leaves(params))
    width = params["norm"]["scale"].size
    beside = _TOWER + 1152 * width + 1152 if model.startswith("gemma-3") else 0
    assert found + beside == COUNTS[model]


@pytest.mark.parametrize("model", [*COUNTS, "olmo-2-13b"])
def test_sizes_known_by_name_are_those_of_the_files(model):
    known = LlamaConfig.from_hf(shapes.MODELS[model])
    file = LlamaConfig.from_hf(PUBLISHED[_NAMES.get(model, model)])
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    assert dataclasses.replace(known, **ids) == dataclasses.replace(file, **ids)


def test_what_the_files_mean():
    found = {name: LlamaConfig.from_hf(raw) for name, raw in PUBLISHED.items()}
    gemma = found["gemma-2-27b"]
    assert (gemma.head_dim, gemma.query_scalar, gemma.score_scale) == (128, 144, 1 / 12)
    assert gemma.sliding_layers == (True, False) * 23
    large = found["gemma-3-27b"]
    assert (large.rope_theta, large.local_rope_theta) == (1e6, 1e4)
    assert large.rope_scaling == LinearScaling(8.0)
    assert large.eos_token_id == (1, 106)
    assert [layer for layer in range(14) if not large.has_window(layer)] == [5, 11]
    assert found["gemma-3-4b"].vocab_size == 262208
    phi = found["Phi-3-mini-128k"].rope_scaling
    assert isinstance(phi, LongRope)
    assert phi.attention_factor == pytest.approx((1 + 5 / 12) ** 0.5)  # of 32 times 4,096
    assert found["SmolLM3-3B"].nope_layers == (False, False, False, True) * 9
    assert found["granite-3.1-8b"].attention_scale == 1 / 128
    assert found["Mistral-Nemo"].num_heads * found["Mistral-Nemo"].head_dim == 4096
