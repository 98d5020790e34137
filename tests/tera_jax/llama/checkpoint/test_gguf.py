import struct
import time
import types
from dataclasses import fields as _fields

import gguf
import jax
import numpy as np
import pytest

from tera_jax.llama import load_pretrained, rope
from tera_jax.llama.checkpoint.gguf_rope import llama3
from tera_jax.quantize import quantize_kernel
from tera_jax.sharding import make_mesh
from tests.margins import within
from tests.tera_jax.llama.checkpoint.gguf_files import write_gguf


def _rope_factors(config):
    plain = rope.frequencies(config.head_dim, config.rope_theta, None)
    return rope.stretches(plain, config.rope_scaling).astype(np.float32)


@pytest.mark.parametrize("family", ["llama-3", "llama-3.1", "tinyllama", "qwen2", "qwen3"])
def test_gguf_equals_the_checkpoint_it_was_made_of(assert_same, family, tiny_path, tmp_path):
    model, params = load_pretrained(tiny_path(family))
    extra = {}
    if model.config.rope_scaling:
        extra["rope_freqs__weight"] = _rope_factors(model.config)
    path = write_gguf(tmp_path / "x.gguf", model, params, **extra)
    found, loaded = load_pretrained(path)
    assert found.config == model.config
    assert_same(loaded, params)
    # A directory with one GGUF file and no config.json will do, and so will a mesh.
    _, sharded = load_pretrained(tmp_path, mesh=make_mesh(2, 2, 2))
    assert_same(sharded, params)
    assert not sharded["layers"]["self_attn"]["q_proj"]["kernel"].sharding.is_fully_replicated


def test_quantised_gguf_is_close(assert_same, tiny_path, tmp_path):
    model, params = load_pretrained(tiny_path("llama-3"))
    path = write_gguf(tmp_path / "x.gguf", model, params, gguf.GGMLQuantizationType.Q8_0)
    loaded = load_pretrained(path)[1]["layers"]["self_attn"]["q_proj"]["kernel"]
    expected = params["layers"]["self_attn"]["q_proj"]["kernel"]
    error = np.max(np.abs(loaded - expected))
    assert error > 0
    within(error, 0.01)
    in_fp8 = load_pretrained(path, quantize="fp8")[1]["layers"]["self_attn"]["q_proj"]["kernel"]
    assert_same(in_fp8, quantize_kernel(loaded, "fp8"))


@pytest.mark.parametrize("scaling", [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192)])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_llama3_scaling_is_found_again_in_gguf(scaling, head_dim):
    plain = rope.frequencies(head_dim, 5e5, None)
    expected = rope.Llama3Scaling(*scaling)
    baked = rope.stretches(plain, expected).astype(np.float32)
    assert llama3(baked.astype(np.float64), plain) == expected
    assert llama3(np.ones(head_dim // 2), plain) is None
    with pytest.raises(ValueError, match=r"rope_freqs.weight .* is not made by Llama"):
        llama3(baked[::-1].astype(np.float64), plain)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rope.scaling.type": "dynamic"},
            'sets llama.rope.scaling.type to \'dynamic\', not "none" or "linear" or "yarn" or',
        ),
        ({"expert_count": 8}, "sets llama.expert_count to 8, not 0"),
        ({"new_key": 1}, r"has the unknown key 'llama.new_key' \(1\); choose another file"),
        ({"rope.dimension_count": 8}, "rope.dimension_count to 8, not the head dimension 16"),
        ({"vocab_size": 127}, "vocab_size to 127, but token_embd.weight has 128 rows; fetch it"),
    ],
)
def test_refuses_gguf_keys(fields, message, tiny_path, tmp_path):
    model, params = load_pretrained(tiny_path("llama-3"))
    path = write_gguf(tmp_path / "x.gguf", model, params, fields=fields)
    with pytest.raises(ValueError, match=message):
        load_pretrained(path)


def test_refuses_gguf_files(tiny_path, tmp_path):
    model, params = load_pretrained(tiny_path("llama-3"))
    path = write_gguf(tmp_path / "x.gguf", model, params, extra__weight=np.ones(3, np.float32))
    with pytest.raises(ValueError, match=r"none missing, 1 tensors \(extra.weight\) unexpected"):
        load_pretrained(path)
    whole = path.read_bytes()
    for cut in (3, 40, 1000, len(whole) - 2000):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=rf"x.gguf is not a whole GGUF file \({cut} bytes"):
            load_pretrained(path)
    path.unlink()
    writer = gguf.GGUFWriter(tmp_path / "y.gguf", "granitemoe")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(
        ValueError, match="GGUF architecture 'granitemoe' is not supported; choose one"
    ):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 10**9}, "has tensors of 2 layers, but its config has num_layers=1000000"),
        ({"intermediate_size": 10**9}, r"gate_proj.* config makes it \(1000000000, 64\)"),
        ({"head_dim": 2 * 10**9}, r"q_proj.* config makes it \(8000000000, 64\)"),
        ({"rms_norm_eps": 0.0}, "layer_norm_rms_epsilon to 0.0, not a number above 0 and below 1"),
        ({"rms_norm_eps": float("nan")}, "layer_norm_rms_epsilon to nan, not a number above 0"),
        ({"rope_theta": 0.5}, "sets llama.rope.freq_base to 0.5, not a number of at least 1"),
        ({"num_heads": 0}, "sets llama.attention.head_count to 0, not a whole number"),
    ],
)
def test_counts_are_compared_with_the_tensors_within_a_second(change, message, tiny_path, tmp_path):
    model, params = load_pretrained(tiny_path("llama-3"))
    fields = {field.name: getattr(model.config, field.name) for field in _fields(model.config)}
    told = types.SimpleNamespace(config=types.SimpleNamespace(**(fields | change)))
    path = write_gguf(tmp_path / "x.gguf", told, params, rows=model.config)
    start = time.process_time()
    with pytest.raises(ValueError, match=message):
        load_pretrained(path)
    assert time.process_time() - start < 1


def test_counts_in_the_header_are_compared_with_the_file(tmp_path):
    """A list that is said to have 2^40 entries of one byte, and as many keys and tensors."""
    magic = b"GGUF" + struct.pack("<I", 3)
    name = struct.pack("<Q", 1) + b"a"
    for tensors, keys, rest in (
        (0, 1, name + struct.pack("<IIQ", 9, 0, 2**40)),
        (0, 1, name + struct.pack("<IIQ", 9, 9, 3)),
        (0, 1, name + struct.pack("<IQ", 8, 2**63)),
        (2**40, 0, b""),
        (0, 2**40, b""),
    ):
        content = magic + struct.pack("<QQ", tensors, keys) + rest
        (tmp_path / "x.gguf").write_bytes(content.ljust(40_000, b"\0"))
        start = time.process_time()
        with pytest.raises(ValueError, match=r"x.gguf is not a whole GGUF file \(40000 bytes"):
            load_pretrained(tmp_path / "x.gguf")
        assert time.process_time() - start < 1


def test_gguf_tensors_are_looked_at(tiny_path, tmp_path):
    model, params = load_pretrained(tiny_path("llama-3"))
    broken = jax.tree.map(np.array, params)
    broken["layers"]["mlp"]["down_proj"]["kernel"][1, 0, 0] = np.nan
    path = write_gguf(tmp_path / "x.gguf", model, broken)
    with pytest.raises(ValueError, match=r"tensor model.layers.1.mlp.down_proj.weight holds NaN"):
        load_pretrained(path)
    for name, data, message in (
        ("rope_freqs__weight", np.ones(3, np.float32), r"rope_freqs.weight .* not F32 and \(8,\)"),
        ("lm_head__weight", np.ones((128, 64), np.float32), "GGUF's lm_head.weight.* unexpected"),
        ("blk__00__attn_q__weight", np.ones((64, 64), np.float32), "blk.00.attn_q.*unexpected"),
    ):
        path = write_gguf(tmp_path / "x.gguf", model, params, **{name: data})
        with pytest.raises(ValueError, match=message):
            load_pretrained(path)


def test_every_stop_of_a_gguf_file(tiny_path, tmp_path):
    model, params = load_pretrained(tiny_path("llama-3"))
    path = write_gguf(tmp_path / "x.gguf", model, params, eot=7, eom=2)
    assert load_pretrained(path)[0].config.eos_token_id == (2, 7)
    path = write_gguf(tmp_path / "x.gguf", model, params, eot=128)
    with pytest.raises(ValueError, match="eos_token_id=128 must be at least 0 and below vocab_siz"):
        load_pretrained(path)
