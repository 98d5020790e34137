import json
import shutil
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tera_jax.llama import load_pretrained, save_pretrained
from tera_jax.llama.checkpoint import names, weights
from tera_jax.llama.checkpoint.readers import SafeTensors
from tera_jax.llama.checkpoint.weights import abstract_params
from tera_jax.sharding import make_mesh


@pytest.fixture
def broken(tiny_path, tmp_path):
    """``broken(change) -> path`` of a copy whose tensors and config a function has changed."""

    def make(change, family="llama-3"):
        path = tmp_path / "broken"
        shutil.copytree(tiny_path(family), path)
        tensors = load_file(path / "model.safetensors")
        config = json.loads((path / "config.json").read_text())
        change(tensors, config)
        save_file(tensors, path / "model.safetensors")
        (path / "config.json").write_text(json.dumps(config))
        return path

    return make


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("family", ["llama-3.1", "mistral", "qwen2", "qwen3"])
def test_round_trip_is_exact(assert_same, family, dtype, tiny_path, tmp_path):
    model, params = load_pretrained(tiny_path(family), dtype=dtype)
    save_pretrained(model, params, tmp_path / "out")
    again, loaded = load_pretrained(tmp_path / "out", dtype=dtype)
    assert again.config == model.config
    assert set(jax.tree.leaves(jax.tree.map(lambda leaf: leaf.dtype, params))) == {jnp.dtype(dtype)}
    assert_same(loaded, params)
    changed = jax.tree.map(lambda leaf: leaf + jnp.asarray(1, leaf.dtype), params)
    with pytest.raises(AssertionError):
        assert_same(loaded, changed)


def test_saved_directory_loads_in_transformers(tiny, load_torch, tokens_BL, apply, tmp_path):
    path, model, params = tiny
    save_pretrained(model, params, tmp_path)
    tokens = torch.tensor(tokens_BL)
    with torch.no_grad():
        saved, original = load_torch(tmp_path)(tokens).logits, load_torch(path)(tokens).logits
    assert torch.equal(saved, original)
    moved = jax.tree.map(lambda leaf: leaf * 1.01, params)
    save_pretrained(model, moved, tmp_path / "moved")
    with torch.no_grad():
        assert not torch.equal(load_torch(tmp_path / "moved")(tokens).logits, original)


def test_many_shards_with_an_index(assert_same, tiny_path, load_torch, tokens_BL, tmp_path):
    model, params = load_pretrained(tiny_path("qwen3"))
    save_pretrained(model, params, tmp_path, max_shard_bytes=60_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert all(sum(t.nbytes for t in load_file(file).values()) <= 60_000 for file in files)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert all(name in load_file(tmp_path / file) for name, file in index["weight_map"].items())
    assert_same(load_pretrained(tmp_path)[1], params)
    tokens = torch.tensor(tokens_BL)
    with torch.no_grad():
        theirs = load_torch(tiny_path("qwen3"))(tokens).logits
        assert torch.equal(load_torch(tmp_path)(tokens).logits, theirs)
    # A copy of the weights in their makers' own format beside the shards is left alone.
    save_file({"foreign": np.zeros(1, np.float32)}, tmp_path / "consolidated.safetensors")
    assert_same(load_pretrained(tmp_path)[1], params)
    files[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"{files[1].name} is named in .*index.json but"):
        load_pretrained(tmp_path)


def watch_reading(monkeypatch):
    """The shape of the leaf and of each part of it, as they are read."""
    sizes = []
    make_array = weights._make_array

    def watched(leaf, sharding, parts):
        def counted(index):
            for data in parts(index):
                sizes.append((leaf.shape, data.shape))
                yield data

        return make_array(leaf, sharding, counted)

    monkeypatch.setattr(weights, "_make_array", watched)
    return sizes


def test_each_device_reads_its_own_slices_once(assert_same, tiny_path, monkeypatch):
    """The host holds one shard, and a replica costs no second reading."""
    sizes = watch_reading(monkeypatch)
    _, params = load_pretrained(tiny_path("qwen3"), mesh=make_mesh(2, 2, 2))
    assert_same(params, load_pretrained(tiny_path("qwen3"))[1])
    kernel = params["layers"]["mlp"]["up_proj"]["kernel"]
    read = [part for shape, part in sizes if shape == kernel.shape]
    whole = [part for part in read if part == kernel.shape]
    # gate and up: four quarters each on 8 devices, then once whole for the single device
    assert (len(read), len(whole)) == (10, 2)
    assert set(read) - set(whole) == {(2, 32, 48)}


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_a_large_leaf_goes_to_its_devices_layer_by_layer(
    assert_same, sizes, tiny_path, monkeypatch
):
    _, expected = load_pretrained(tiny_path("qwen3"), dtype=jnp.bfloat16)
    monkeypatch.setattr(weights, "_AT_ONCE", 1000)
    read = watch_reading(monkeypatch)
    _, params = load_pretrained(tiny_path("qwen3"), dtype=jnp.bfloat16, mesh=make_mesh(*sizes))
    assert_same(params, expected)
    layers, *matrix = params["layers"]["mlp"]["up_proj"]["kernel"].shape
    parts = {part for shape, part in read if shape == (layers, *matrix)}
    assert layers > 1
    assert {part[0] for part in parts} == {1}
    scale = params["layers"]["input_layernorm"]["scale"].shape
    assert {part[0] for shape, part in read if shape == scale} == {layers}  # small: all at once


def test_files_are_mapped_only_while_they_are_read(tiny_path):
    """What stays mapped counts as memory of the process."""
    tensors = SafeTensors(tiny_path("llama-3"))
    name, shape = next(iter(tensors.shapes.items()))
    assert tensors.read(name, [slice(None)] * len(shape)).shape == shape

    def mapped():
        return str(tensors.files[name]) in Path("/proc/self/maps").read_text()

    assert not mapped()
    with safe_open(tensors.files[name], "np"):
        assert mapped()


def _drop(tensors, config):
    del tensors["model.layers.1.mlp.up_proj.weight"]


def _add(tensors, config):
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(64, np.float32)


def _reshape(tensors, config):
    tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((95, 64), np.float32)


def _store_int(tensors, config):
    tensors["model.norm.weight"] = np.zeros(64, np.int8)


def _replace_all(tensors, config):
    tensors.clear()
    tensors["transformer.h.0.attn.weight"] = np.zeros(3, np.float32)


def _widen_vocabulary(tensors, config):
    config["vocab_size"] = 130


def _misconfigure(tensors, config):
    config["hidden_act"] = "gelu"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, r"1 tensors \(model.layers.1.mlp.up_proj.weight\) missing, none unexpected"),
        (_add, r"none missing, 1 tensors \(model.layers.0.self_attn.q_proj.bias\) unexpected"),
        (_reshape, r"safetensors: tensor model.layers.1.mlp.up_proj.weight has shape \(95, 64\)"),
        (_store_int, "tensor model.norm.weight is stored as I8, not one of F32, F16, BF16"),
        (_replace_all, r"4 tensors \(model.embed_.*\) missing, 1 tensors \(transformer"),
        (
            _widen_vocabulary,
            r"tokens.weight has shape .*, but the config makes it \(130, 64\)",
        ),
        (_misconfigure, "sets hidden_act to 'gelu', not \"silu\""),
    ],
)
def test_refuses_bad_checkpoints_before_reading_a_weight(change, message, broken, monkeypatch):
    def never(*_):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(SafeTensors, "read", never)
    with pytest.raises(ValueError, match=message):
        load_pretrained(broken(change))


def test_refuses_truncated_safetensors(broken):
    path = broken(lambda tensors, config: None)
    file = path / "model.safetensors"
    whole = file.read_bytes()
    for cut in (4, 100, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=rf"is not a whole safetensors file \({cut} bytes"):
            load_pretrained(path)
    (path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match=r"config.json is not JSON .*; fetch it again"):
        load_pretrained(path)


def test_refuses_what_is_no_checkpoint(tiny_path, tmp_path, monkeypatch):
    missing = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=f"local path '{missing}' does not exist.*network"):
        load_pretrained(missing)

    def unreachable(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(FileNotFoundError, match=r"'some/model' does not exist.*LocalEntryNotFound"):
        load_pretrained("some/model")
    with pytest.raises(ValueError, match=r"holds no config.json and 0 .gguf files"):
        load_pretrained(tmp_path)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds no config.json and 2 .gguf files"):
        load_pretrained(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model.bin is neither a directory nor a .gguf file"):
        load_pretrained(tmp_path / "model.bin")
    shutil.copy(tiny_path("llama-3") / "config.json", tmp_path)
    with pytest.raises(ValueError, match=r"holds only pickles \(model.bin\).*save the model as"):
        load_pretrained(tmp_path)
    (tmp_path / "model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="holds 0 safetensors files and no model"):
        load_pretrained(tmp_path)


def test_a_name_on_the_hub_fetches_weights_and_no_code(assert_same, tiny_path, monkeypatch):
    asked = {}

    def fetch(name, **kwargs):
        asked.update(kwargs, name=name)
        return str(tiny_path("llama-3"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    _, params = load_pretrained("some/model")
    assert_same(params, load_pretrained(tiny_path("llama-3"))[1])
    assert asked["name"] == "some/model"
    assert not {"*.bin", "*.pt", "*.py", "*"} & set(asked["allow_patterns"])


def test_save_refuses(tiny_path, tmp_path):
    model, params = load_pretrained(tiny_path("llama-3"))
    (tmp_path / "note").write_text("")
    with pytest.raises(FileExistsError, match="not empty; name another directory"):
        save_pretrained(model, params, tmp_path)
    with pytest.raises(FileExistsError, match="there and not empty"):
        save_pretrained(model, params, tmp_path / "note")
    wrong = params | {"norm": {"scale": jnp.ones(3)}}
    with pytest.raises(ValueError, match=r"norm/scale has shape \(3,\).*config makes it \(64,\)"):
        save_pretrained(model, wrong, tmp_path / "out")
    with pytest.raises(ValueError, match=r"params/extra has shape .*makes it None"):
        save_pretrained(model, params | {"extra": jnp.ones(3)}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_parameter_has_a_name(tiny):
    _, model, _ = tiny
    for key_path, leaf in jax.tree.leaves_with_path(abstract_params(model)):
        assert names.tensors("/".join(key.key for key in key_path), leaf.shape)
    with pytest.raises(ValueError, match="'layers/new/kernel' has no name in files; add it"):
        names.tensors("layers/new/kernel", (2, 3, 4))
