"""What a directory holds beside or in place of the tensors of its model."""

import json
import os
import shutil
import time

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from tera_jax.llama import load_pretrained, rope
from tera_jax.llama.checkpoint.contents import is_finite


@pytest.fixture
def copied(tiny_path, tmp_path):
    """``copied(family) -> (directory, tensors, config)`` of a checkpoint to be changed."""

    def make(family="llama-3"):
        path = tmp_path / family
        shutil.copytree(tiny_path(family), path)
        tensors = load_file(path / "model.safetensors")
        return path, tensors, json.loads((path / "config.json").read_text())

    return make


def _write(path, tensors, config=None):
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


def _refuses(path, message, error=ValueError, **options):
    with pytest.raises(error, match=message):
        load_pretrained(path, **options)


# Tensors that the model makes for itself


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama-2", "llama-3.1"])
def test_rotary_frequencies_are_compared(assert_same, family, dtype, copied, tiny_path):
    path, tensors, _ = copied(family)
    config = transformers.AutoConfig.from_pretrained(path)
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    stored = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    from safetensors.torch import save_file as save_torch

    save_torch(stored | {name: rotary.inv_freq.to(dtype)}, path / "model.safetensors")
    assert_same(load_pretrained(path)[1], load_pretrained(tiny_path(family))[1])
    message = rf"tensor {name} is not the rotary frequencies of rope_theta=.*; check that weights"
    for wrong in (rotary.inv_freq * 1.02, rotary.inv_freq[:-1], torch.zeros(8), torch.ones(8, 1)):
        wrong = wrong.contiguous().to(dtype)
        save_torch(stored | {name: wrong}, path / "model.safetensors")
        _refuses(path, message)


def test_a_copy_of_the_embedding_is_compared(assert_same, copied, tiny_path):
    path, tensors, _ = copied("llama-3.1")
    embedding = tensors["model.embed_tokens.weight"]
    expected = load_pretrained(tiny_path("llama-3.1"))[1]
    assert_same(
        load_pretrained(_write(path, tensors | {"lm_head.weight": embedding.copy()}))[1], expected
    )
    message = "tensor lm_head.weight differs from model.embed_tokens.weight, .*set it to false"
    changed = embedding.copy()
    changed[-1, -1] += 1e-3
    _refuses(_write(path, tensors | {"lm_head.weight": changed}), message)
    _refuses(_write(path, tensors | {"lm_head.weight": embedding[:-1]}), message)


def test_names_that_only_look_harmless_are_refused(copied):
    path, tensors, _ = copied()
    for name in ("other.rotary_emb.inv_freq", "rope_freqs.weight"):
        made = rope.frequencies(16, 5e5, None)
        _refuses(_write(path, tensors | {name: made}), rf"1 tensors \({name}\) unexpected")


# NaN and infinity


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value, copied):
    path, tensors, _ = copied()
    for name in ("model.layers.1.mlp.up_proj.weight", "model.norm.weight"):
        broken = tensors[name].copy()
        broken.flat[-1] = value
        _refuses(
            _write(path, tensors | {name: broken}),
            rf"safetensors: tensor {name} holds NaN or infinite numbers as float32; fetch it",
        )


def test_a_weight_beyond_the_type_is_refused(copied):
    path, tensors, _ = copied()
    large = tensors["model.norm.weight"] * 0 + 7e4
    _write(path, tensors | {"model.norm.weight": large})
    load_pretrained(path)
    message = "model.norm.weight holds .* as float16; fetch it again, or load it in a wider type"
    _refuses(path, message, dtype=jnp.float16)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_is_finite_equals_numpy(dtype):
    dtype = jnp.dtype(dtype)
    largest = float(jnp.finfo(dtype).max)
    for value in (0.0, -0.0, largest, -largest, np.nan, -np.nan, np.inf, -np.inf):
        array = np.array([[1.0, value], [2.0, 3.0]], dtype)
        assert is_finite(array) == is_finite(array.T) == bool(np.isfinite(value)), value
    assert is_finite(np.zeros((0, 3), dtype))


# Several sources in one directory


def _index(path, weight_map, **others):
    content = {"metadata": {}, "weight_map": weight_map, **others}
    (path / "model.safetensors.index.json").write_text(json.dumps(content))


def _shards(path, tensors):
    """Two shards and their index in place of one file."""
    (path / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:10], "model-2.safetensors": names[10:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, path / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in parts.items() for name in part}
    _index(path, weight_map)
    return weight_map


def test_a_single_file_is_read_and_not_the_index(assert_same, copied, load_torch, tokens_BL, apply):
    path, tensors, _ = copied()
    _shards(path, {name: tensor * 0.5 for name, tensor in tensors.items()})
    model, half = load_pretrained(path)
    _write(path, tensors)
    whole = load_pretrained(path)[1]
    with torch.no_grad():
        theirs = load_torch(path)(torch.tensor(tokens_BL)).logits.numpy()
    np.testing.assert_allclose(apply(model, whole, tokens_BL), theirs, atol=1e-4)
    assert np.max(np.abs(apply(model, half, tokens_BL) - theirs)) > 0.1


def test_an_index_that_does_not_fit_its_files_is_refused(assert_same, copied, tiny_path):
    path, tensors, _ = copied()
    weight_map = _shards(path, tensors)
    assert_same(load_pretrained(path)[1], load_pretrained(tiny_path("llama-3"))[1])
    moved = weight_map | {"model.norm.weight": "model-1.safetensors"}
    for wrong in (moved, weight_map | {"extra.weight": "model-2.safetensors"}):
        _index(path, wrong)
        _refuses(path, "index.json has the tensor '.*' in model-..safetensors, which does not hold")
    for name in ("../model-1.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "x.bin"):
        _index(path, weight_map | {"model.norm.weight": name})
        _refuses(path, rf"names the file '{name}', which is not the plain name of a safetensors")
    _index(path, {})
    _refuses(path, "has no tensors in weight_map; fetch the checkpoint again")
    _index(path, weight_map, version=2)
    _refuses(path, "has the unknown key 'version'")
    _index(path, dict.fromkeys(weight_map, 3))
    _refuses(path, "sets weight_map to .*, not an object, each value a text")
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b", "a": "c"}}')
    _refuses(path, r"index.json is not JSON \(the key 'a' stands twice in an object\)")


def test_a_shard_that_links_out_of_the_directory_is_refused(assert_same, copied, tmp_path):
    path, tensors, _ = copied()
    _shards(path, tensors)
    expected = load_pretrained(path)[1]
    shard, outside = path / "model-1.safetensors", tmp_path / "outside.safetensors"
    os.replace(shard, outside)
    shard.symlink_to(outside)
    _refuses(path, r"model-1.safetensors is named in .* but links to .*outside.safetensors, out of")
    # The hub's cache is made of links.
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    os.replace(outside, blobs / "abc")
    shard.unlink()
    shutil.copytree(path, snapshot)
    (snapshot / "model-1.safetensors").symlink_to("../../blobs/abc")
    assert_same(load_pretrained(snapshot)[1], expected)


# Counts


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("num_hidden_layers", "has tensors of 2 layers, but its config has num_layers=1000000000"),
        ("vocab_size", r"embed_tokens.weight has shape .*config makes it \(1000000000, 64\)"),
        ("intermediate_size", r"gate_proj.weight has .*config makes it \(1000000000, 64\)"),
        ("head_dim", r"q_proj.weight has .*config makes it \(4000000000, 64\)"),
        ("num_attention_heads", r"q_proj.weight has .*config makes it \(16000000000, 64\)"),
        ("hidden_size", r"embed_tokens.weight has .*config makes it \(128, 1000000000\)"),
    ],
)
def test_a_billion_of_anything_is_refused_within_a_second(key, message, copied):
    path, _, config = copied()
    config[key] = 10**9
    (path / "config.json").write_text(json.dumps(config))
    start = time.process_time()
    _refuses(path, message)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("names", [["a"], ["model.embed_tokens.weight"]])
def test_a_billion_layers_without_tensors_are_refused_too(names, copied):
    path, tensors, config = copied()
    config["num_hidden_layers"] = config["head_dim"] = 10**9
    kept = {name: tensors.get(name, np.ones(2, np.float32)) for name in names}
    start = time.process_time()
    _refuses(_write(path, kept, config), r"tensors \(model.*\) missing")
    assert time.process_time() - start < 1
