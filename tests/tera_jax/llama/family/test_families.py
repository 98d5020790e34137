"""Every family is what transformers makes of the same files."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tera_jax.llama import GenerationConfig, Llama, LlamaConfig, load_pretrained, save_pretrained
from tera_jax.llama.decode.generate import generate, left_pad
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.llama.family.models import FAMILIES

TOLERANCE = 2e-5  # of the range of the logits
QUICK = ["gemma2", "phi3-long", "smollm3"]
# Longer than any window, and than what LongRoPE calls short.
LENGTH = 24
_SIZES = {
    *("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads"),
    *("num_kv_heads", "head_dim", "max_position_embeddings", "model_type", "tie_word_embeddings"),
    *("attention_bias", "output_bias", "mlp_bias", "qk_norm", "qk_norm_over", "norms"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
}
"""Fields that the shapes of parameters depend on, and ids."""


def relative(ours, theirs):
    return float(np.max(np.abs(ours - theirs)) / np.ptp(theirs))


def changes(config):
    """The config with each peculiarity of its function left out, one at a time."""
    for field in dataclasses.fields(LlamaConfig):
        default = {"rms_norm_eps": 0.1, "rope_theta": 2 * config.rope_theta}.get(
            field.name, field.default
        )
        if field.name not in _SIZES and getattr(config, field.name) != default:
            # LongRoPE has a factor for each pair that turns.
            more = {"rope_scaling": None} if field.name == "rotary_share" else {}
            yield field.name, dataclasses.replace(config, **{field.name: default}, **more)


@pytest.mark.parametrize("family", quick_only(QUICK, FAMILIES))
def test_logits_equal_transformers(family, family_path, load_torch, apply):
    path = family_path(family)
    model, params = load_pretrained(path)
    length = 300 if "dynamic" in family else LENGTH
    tokens_BL = np.random.default_rng(0).integers(3, 128, (2, length)).astype(np.int32)
    with torch.no_grad():
        theirs = load_torch(path)(torch.tensor(tokens_BL)).logits.numpy()
    difference = relative(apply(model, params, tokens_BL), theirs)
    print(f"largest difference over range {difference:.1e}")  # shown by pytest -rP
    within(difference, TOLERANCE)
    left_out = dict(changes(model.config))
    if family not in ("gemma2", "granite"):  # one compilation each
        left_out.pop("rms_norm_eps")
    for name, config in left_out.items():
        assert relative(apply(Llama(config), params, tokens_BL), theirs) > 10 * TOLERANCE, name


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_transformers_with_left_padding_and_beyond_the_window(
    family, family_path, load_torch
):
    model, params = load_pretrained(family_path(family))
    theirs = load_torch(family_path(family))
    # LongRoPE takes the size of the cache for the length: all of these are long, as there.
    prompts = [list(range(20, 41)), [17, 40, 8, *range(60, 75)]]
    config = model.config
    assert config.sliding_window is None or config.sliding_window < min(map(len, prompts)) // 2
    if config.mixes_windows:
        assert {True, False} <= {*config.sliding_layers}
        assert config.sliding_layers != tuple(sorted(config.sliding_layers))
    ours = np.asarray(
        jax.jit(
            functools.partial(
                generate,
                model,
                decoding=GenerationConfig(max_new_tokens=64),
                eos_id=None,
                pad_id=0,
            )
        )({"params": params}, *left_pad(prompts, 0))
    )
    for row, prompt in zip(ours, prompts, strict=True):
        expected = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            max_new_tokens=64,
        )[0, len(prompt) :]
        np.testing.assert_array_equal(row, expected.numpy())
    assert not np.array_equal(ours[0], ours[1])


@pytest.mark.parametrize("family", quick_only(["phi3-long"], FAMILIES))
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_saved_is_what_was_read(
    family, dtype, family_path, load_torch, assert_same, tmp_path
):
    path = family_path(family)
    model, params = load_pretrained(path, dtype=dtype)
    save_pretrained(model, params, tmp_path / "out", max_shard_bytes=60_000)
    again, loaded = load_pretrained(tmp_path / "out", dtype=dtype)
    assert again.config == model.config
    assert_same(loaded, params)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    if dtype == jnp.float32:
        tokens = torch.arange(3, 51)[None]
        with torch.no_grad():
            saved, original = load_torch(tmp_path / "out")(tokens), load_torch(path)(tokens)
        assert torch.equal(saved.logits, original.logits)
        moved = jax.tree.map(lambda leaf: leaf * 1.01, params)
        save_pretrained(model, moved, tmp_path / "moved")
        with torch.no_grad():
            assert not torch.equal(load_torch(tmp_path / "moved")(tokens).logits, original.logits)
