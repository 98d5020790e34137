"""What of PEFT's adapters does not fit a base, or is not understood, is refused by name."""

import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
from safetensors.numpy import load_file, save_file

from tera_jax import load_adapter
from tera_jax.io.adapter_files import save_peft
from tests.tera_jax.io.peft_models import (
    PREFIX,
    QV,
    SAVED_LAYERS,
    made,
    our_base,
    write,
    write_bases,
)

LORA = peft.LoraConfig
HEAD_A = f"{PREFIX}lm_head.lora_A.weight"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return write_bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def head(bases, tmp_path_factory):
    """A directory with LoRA on q_proj and the head of the untied base, and the base's params."""
    path = tmp_path_factory.mktemp("head") / "a"
    config = LORA(target_modules=["q_proj", "lm_head"], modules_to_save=None)
    made(bases[False], config, path, save_embedding_layers=True)
    return path, our_base(bases[False])[1]


def changed(head, tmp_path, arrays=None, **config):
    """A copy of the directory with other arrays (None: without) and keys."""
    path, params = head
    shutil.copytree(path, tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    found = {**load_file(file), **(arrays or {})}
    save_file({k: v for k, v in found.items() if v is not None}, file)
    write(tmp_path / "a", **config)
    return tmp_path / "a", params


def test_a_copy_of_the_head_is_compared_with_the_base(head, tmp_path):
    key = f"{PREFIX}lm_head.base_layer.weight"
    copy = load_file(head[0] / "adapter_model.safetensors")[key]
    load_adapter(*head)
    bfloat16 = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), head[1])
    load_adapter(head[0], bfloat16)
    for number, other in enumerate((copy * 1.01, copy[:-1])):
        path, params = changed(head, tmp_path / str(number), {key: other})
        with pytest.raises(ValueError, match=rf"{key} in .*(is another than|has shape)"):
            load_adapter(path, params)
    path, params = changed(head, tmp_path / "none", {key: None})
    load_adapter(path, params)


@pytest.mark.parametrize(
    ("arrays", "config", "message"),
    [
        ({}, {"layers_to_transform": [1]}, r"q_proj is adapted in layers \[1\] of 2 alone"),
        ({}, {"exclude_modules": r".*\.0\..*"}, "sets exclude_modules to .* of 2 alone"),
        ({}, {"target_modules": r"(lm_head|.*\.1.*q_proj)"}, "target_modules to .* of 2 alone"),
        ({}, {"target_modules": ["lm_head"]}, "has arrays .*q_proj.* that lora does not have"),
        ({}, {"target_modules": ["q_proj", "lm_head", "up_proj"]}, "lacks the array .*up_proj"),
        ({}, {"target_modules": ["embed_tokens"]}, "adapts model.embed_tokens, and adapters of"),
        ({}, {"target_modules": ["other"]}, r"sets target_modules to \['other'\], which this base"),
        ({}, {"target_modules": "(q_proj"}, "has in target_modules .* no regular expression"),
        ({}, {"target_modules": "(.|..|...)+(?<!j)"}, "target_modules .* takes more than 1 s"),
        ({}, {"rank_pattern": {"[": 2}}, "has in rank_pattern .* no regular expression"),
        ({}, {"r": 40}, r"describes no adapter of this base: rank 40, but the kernel"),
        ({}, {"r": 4}, r"has shape \(8, 32\), but the rank 4 .* make it \(4, 32\)"),
        ({}, {"modules_to_save": ["norm"]}, r"sets modules_to_save to .*, and 'norm' is none"),
        ({}, {"modules_to_save": ["embed_tokens"]}, "lacks the array .*embed_tokens.weight"),
        ({HEAD_A: np.full((8, 32), np.nan)}, {}, f"{HEAD_A} in .* that are NaN or infinite"),
        ({HEAD_A: np.ones((8, 32), np.int8)}, {}, "is of type I8, not of"),
        ({f"{PREFIX}lm_head.lora_bias": np.ones(96)}, {}, "has arrays .*lm_head.lora_bias"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(head, tmp_path, arrays, config, message):
    path, params = changed(head, tmp_path, arrays, **config)
    with pytest.raises(ValueError, match=message):
        load_adapter(path, params)


@SAVED_LAYERS
def test_what_would_untie_a_tied_base_is_refused(bases, tmp_path):
    _, params = our_base(bases[True])
    cases = {
        "adapts lm_head, which is this base's embedding": {"target_modules": ["q_proj", "lm_head"]},
        r"modules_to_save to \['embed_tokens'\], which unties": {
            "modules_to_save": ["embed_tokens"]
        },
        "which unties the head": {"modules_to_save": ["embed_tokens", "lm_head"]},
    }
    for number, (message, fields) in enumerate(cases.items()):
        made(bases[True], LORA(**{**QV, **fields}), tmp_path / str(number))
        with pytest.raises(ValueError, match=message):
            load_adapter(tmp_path / str(number), params)


def test_a_pickle_is_refused_by_name(head, tmp_path):
    path, params = changed(head, tmp_path)
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model\.bin is a pickle, .* safe_serialization"):
        load_adapter(path, params)


def test_projections_of_vera_have_the_shapes_of_the_base(bases, tmp_path):
    config = peft.VeraConfig(r=12, target_modules=["q_proj", "v_proj"])
    made(bases[False], config, tmp_path / "a")
    _, params = our_base(bases[False])
    load_adapter(tmp_path / "a", params)
    file = tmp_path / "a" / "adapter_model.safetensors"
    arrays = load_file(file)
    save_file({**arrays, "base_model.vera_A": np.ones((12, 8), np.float32)}, file)
    with pytest.raises(
        ValueError, match=r"vera_A in .* has shape \(12, 8\), .* make it \(12, 32\)"
    ):
        load_adapter(tmp_path / "a", params)


def test_an_export_for_another_base_gets_a_warning(head, tmp_path, caplog):
    adapter, variables = load_adapter(*head)
    save_peft(tmp_path / "a", adapter, variables, "base/name")
    with caplog.at_level(logging.WARNING):
        load_adapter(tmp_path / "a", head[1])
        load_adapter(*head)  # of PEFT itself, which writes no fingerprint
        assert not caplog.text
        other = jax.tree.map(lambda leaf: leaf * 1.1, head[1])
        load_adapter(tmp_path / "a", other)
    assert "was made for the base 'base/name' with fingerprint" in caplog.text


def test_params_of_no_llama_are_one_clear_error(head):
    with pytest.raises(
        ValueError, match=r"params has no embedding of layer .*, but layers_0; pass"
    ):
        load_adapter(head[0], {"layers_0": {"kernel": jnp.ones((3, 3))}})
