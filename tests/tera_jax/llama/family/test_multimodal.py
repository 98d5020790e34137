"""Of a multimodal Gemma 3 the text decoder is read, and what else there is must be known."""

import json
import logging

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from tera_jax.llama import LlamaConfig, load_pretrained, save_pretrained
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.llama.family.models import FAMILIES, SMALL

_EYE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_IMAGE = {"mm_tokens_per_image": 4, "image_token_index": 125}
_RENAMED = {
    "language_model.model.": "model.language_model.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}
"""What transformers 4 called the tensors for a while."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Directories of one model under both kinds of names, and the model."""
    # The whole model does not cap its logits, whatever the file says.
    text = SMALL | FAMILIES["gemma3"][1] | {"final_logit_softcapping": None}
    torch.manual_seed(0)
    config = transformers.Gemma3Config(text_config=text, vision_config=_EYE, **_IMAGE)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    model.set_attn_implementation("eager")
    root = tmp_path_factory.mktemp("multimodal")
    model.save_pretrained(root / "new")
    (root / "old").mkdir()
    for name in ("config.json", "model.safetensors"):
        (root / "old" / name).write_bytes((root / "new" / name).read_bytes())
    _write(root / "old", {_renamed(name): array for name, array in _arrays(root / "new").items()})
    return root, model


def _renamed(name):
    for ours, theirs in _RENAMED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _arrays(path):
    return load_file(path / "model.safetensors")


def _write(path, arrays):
    save_file(arrays, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("names", quick_only(["new"], ["new", "old"]))
def test_logits_are_those_of_its_text_path(saved, names, apply, caplog):
    root, theirs = saved
    with caplog.at_level(logging.WARNING):
        model, params = load_pretrained(root / names)
    (line,) = (each for each in caplog.messages if "left out" in each)
    count = sum("vision_tower" in name or "projector" in name for name in _arrays(root / names))
    assert f"{count} tensors of multi_modal_projector and vision_tower are left out" in line
    assert model.config.model_type == "gemma3_text"
    tokens_BL = np.random.default_rng(0).integers(3, 120, (2, 24)).astype(np.int32)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens_BL)).logits.numpy()
    found = apply(model, params, tokens_BL)
    within(np.max(np.abs(found - expected)) / np.ptp(expected), 2e-5)
    moved = {**params, "norm": {"scale": params["norm"]["scale"] + 0.5}}
    assert np.max(np.abs(apply(model, moved, tokens_BL) - expected)) > 1e-2 * np.ptp(expected)


@pytest.mark.long
def test_the_text_decoder_is_written_alone(saved, load_torch, tmp_path):
    root, theirs = saved
    save_pretrained(*load_pretrained(root / "new"), tmp_path / "out")
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["architectures"] == ["Gemma3ForCausalLM"]
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        found, expected = load_torch(tmp_path / "out")(tokens), theirs(tokens)
    within(float((found.logits - expected.logits).abs().max()), 1e-4)


@pytest.mark.parametrize("name", ["audio_tower.w", "model.extra.weight", "vision_towers.w"])
def test_a_tensor_that_is_not_named_is_refused(saved, name, tmp_path):
    root, _ = saved
    (tmp_path / "config.json").write_bytes((root / "new" / "config.json").read_bytes())
    _write(tmp_path, _arrays(root / "new") | {name: np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=f"1 tensors \\({name}\\) unexpected"):
        load_pretrained(tmp_path)


def test_the_tensors_of_a_vision_tower_are_refused_beside_another_decoder(family_path, tmp_path):
    path = family_path("phi3-long")
    (tmp_path / "config.json").write_bytes((path / "config.json").read_bytes())
    _write(tmp_path, _arrays(path) | {"vision_tower.w": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=r"1 tensors \(vision_tower.w\) unexpected"):
        load_pretrained(tmp_path)


def test_a_cap_that_the_whole_model_does_not_have_is_refused():
    raw = {"model_type": "gemma3", "text_config": {"final_logit_softcapping": 30.0}}
    with pytest.raises(ValueError, match=r"text_config\.final_logit_softcapping to 30"):
        LlamaConfig.from_hf(raw)
    LlamaConfig.from_hf(raw | {"text_config": {"final_logit_softcapping": None}})


@pytest.mark.parametrize("text", [{}, {"hidden_size": 5376, "num_hidden_layers": 62}])
def test_what_the_nested_file_does_not_say_is_as_in_transformers(text):
    found = LlamaConfig.from_hf({"model_type": "gemma3", "text_config": text})
    theirs = transformers.Gemma3Config(text_config=text).text_config
    assert found == LlamaConfig.from_hf(theirs.to_dict())
    changed = LlamaConfig.from_hf({"model_type": "gemma3", "text_config": {"head_dim": 128}})
    assert changed != found
