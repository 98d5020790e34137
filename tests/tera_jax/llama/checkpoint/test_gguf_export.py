"""GGUF files that are written here, beside llama.cpp's conversion and transformers' reader."""

import dataclasses

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tera_jax.llama import Llama, LlamaConfig, load_config, load_pretrained, save_gguf
from tera_jax.llama.checkpoint.gguf_export.file import require_gguf
from tera_jax.llama.checkpoint.weights import abstract_params
from tera_jax.llama.decode.config import GenerationConfig
from tera_jax.llama.decode.generate import generate
from tera_jax.llama.family.rope_scaling import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    YarnScaling,
)
from tests.margins import within
from tests.tera_jax.llama.checkpoint.gguf_conversion import convert
from tests.tera_jax.llama.family import models

# An intermediate size of 80: rows of the last matrix are no whole blocks of Q8_0.
CHANGES = {
    "llama": {"intermediate_size": 80, "num_hidden_layers": 2},
    "qwen2": {"tie_word_embeddings": True, "num_hidden_layers": 2},
    "qwen3": {"head_dim": 128, "num_hidden_layers": 2},
}
FAMILIES = pytest.mark.parametrize("family", CHANGES)
ROUNDED = {"f16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """``small(family) -> directory`` of a random model, made once."""
    made = {}

    def make(family):
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            models.write(family.capitalize(), CHANGES[family], made[family])
        return made[family]

    return make


def tensors(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def rounded(params, dtype):
    """Matrices in another type and back, by torch."""

    def one(path, leaf):
        matrix = jax.tree_util.keystr(path).endswith(("['kernel']", "['embedding']"))
        given = torch.tensor(np.asarray(leaf))
        return jnp.asarray((given.to(ROUNDED[dtype]).float() if matrix else given).numpy())

    return jax.tree.map_with_path(one, params)


@pytest.mark.parametrize(
    "family",
    ["llama", *(pytest.param(name, marks=pytest.mark.long) for name in ("qwen2", "qwen3"))],
)
def test_tensors_and_keys_are_those_of_a_converted_checkpoint(family, small, tmp_path, caplog):
    model, params = load_pretrained(small(family))
    reference = convert(small(family), tmp_path / "reference.gguf")
    expected = tensors(reference)
    for dtype in ("f16", "bf16", "q8_0"):
        save_gguf(model, params, tmp_path / "x.gguf", dtype=dtype)
        found = tensors(tmp_path / "x.gguf")
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            kind = gguf.GGMLQuantizationType[dtype.upper()] if tensor.data.ndim > 1 else 0
            whole = tensor.data.shape[-1] % 32 == 0
            kind = kind if whole or dtype != "q8_0" else gguf.GGMLQuantizationType.F16
            assert found[name].tensor_type == kind
            np.testing.assert_array_equal(found[name].shape, tensor.shape)
            data = gguf.quants.quantize(tensor.data, gguf.GGMLQuantizationType(kind))
            assert found[name].data.tobytes() == data.tobytes(), name
    assert ("F16 in" in caplog.text) == (family == "llama")
    theirs = gguf.GGUFReader(reference).fields
    ours = gguf.GGUFReader(tmp_path / "x.gguf").fields
    for key in theirs:
        if not key.startswith("GGUF."):
            assert ours[key].contents() == theirs[key].contents(), key
    assert ours["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q8_0
    assert ours["general.quantization_version"].contents() == 2
    assert not list(tmp_path.glob(".*"))


def same_logits(family, small, tmp_path, load_torch, apply, assert_same, dtypes):
    model, params = load_pretrained(small(family))
    tokens_BL = np.random.default_rng(0).integers(3, 128, (2, 24)).astype(np.int32)
    full = apply(model, params, tokens_BL)
    for dtype in dtypes:
        path = tmp_path / dtype / "x.gguf"
        path.parent.mkdir()
        save_gguf(model, params, path, dtype=dtype)
        found, loaded = load_pretrained(path)
        same = dataclasses.replace(found.config, eos_token_id=model.config.eos_token_id)
        assert same == model.config
        if dtype in ROUNDED:
            assert_same(loaded, rounded(params, dtype))
        theirs = load_torch(path)
        with torch.no_grad():
            logits = theirs(torch.tensor(tokens_BL)).logits.numpy()
        ours = apply(found, loaded, tokens_BL)
        within(np.abs(logits - ours).max(), 1e-5 * np.ptp(full))
        moved = np.abs(ours - full).max() / np.ptp(full)
        print(f"{family} {dtype}: logits move by {moved:.2e} of their range")
        assert moved > 1e-5
        within(moved, 0.2 if dtype == "q8_0" else 0.05)
        yield found, loaded, theirs, tokens_BL


@pytest.mark.long
def test_transformers_reads_the_same_logits(small, tmp_path, load_torch, apply, assert_same):
    assert list(same_logits("llama", small, tmp_path, load_torch, apply, assert_same, ["f16"]))


@pytest.mark.long
@FAMILIES
def test_transformers_answers_the_same(family, small, tmp_path, load_torch, apply, assert_same):
    dtypes = ["f16", "bf16", "q8_0"]
    greedy = GenerationConfig(max_new_tokens=16)
    for model, params, theirs, tokens_BL in same_logits(
        family, small, tmp_path, load_torch, apply, assert_same, dtypes
    ):
        with torch.no_grad():
            expected = theirs.generate(
                torch.tensor(tokens_BL), do_sample=False, max_new_tokens=16, eos_token_id=None
            )[:, tokens_BL.shape[1] :]
        found = jax.jit(
            lambda v, t, model=model: generate(
                model, v, t, jnp.ones_like(t), greedy, eos_id=None, pad_id=0
            )
        )({"params": params}, jnp.asarray(tokens_BL))
        np.testing.assert_array_equal(found, expected.numpy())


def config(**changes):
    given = {**models.SMALL, "model_type": "llama", "rms_norm_eps": 1e-6, **changes}
    given.pop("initializer_range")
    return LlamaConfig.from_hf(given)


LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "scaling",
    [
        LLAMA_3,
        pytest.param({"rope_type": "linear", "factor": 4.0}, marks=pytest.mark.long),
        pytest.param(
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            marks=pytest.mark.long,
        ),
    ],
    ids=["llama3", "linear", "yarn"],
)
def test_stretched_frequencies_are_read_back(scaling, tmp_path):
    model = Llama(config(rope_scaling=scaling, rope_theta=1e4, num_hidden_layers=1))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), abstract_params(model))
    save_gguf(model, params, tmp_path / "x.gguf")
    assert load_config(tmp_path) == model.config
    has = "rope_freqs.weight" in tensors(tmp_path / "x.gguf")
    assert has == (scaling["rope_type"] == "llama3")


QWEN_3 = {"model_type": "qwen3", "head_dim": 16}


@pytest.mark.parametrize(
    ("keys", "changes", "message"),
    [
        (
            {"model_type": "mistral", "sliding_window": None},
            {},
            "file of a mistral model is not written: the families are",
        ),
        (QWEN_3, {"attention_bias": True}, "a qwen3 checkpoint has attention_bias=False, not"),
        (QWEN_3, {"rope_scaling": Llama3Scaling(8.0, 1.0, 4.0, 64)}, "qwen3 model cannot say"),
        ({"model_type": "mistral", "sliding_window": 8}, {}, "of a mistral model is not written"),
        ({}, {"rope_scaling": DynamicScaling(2.0, 64)}, "llama model cannot say DynamicScaling"),
        ({}, {"rope_scaling": YarnScaling(4.0, 64, 1.5)}, "llama model cannot say YarnScaling"),
        ({}, {"norm_offset": 1.0}, "a llama checkpoint has norm_offset=0.0, not 1.0"),
    ],
)
def test_what_no_file_can_say_is_refused_by_name(keys, changes, message, tmp_path):
    changed = dataclasses.replace(config(**keys), **changes)
    with pytest.raises(ValueError, match=message):
        save_gguf(Llama(changed), {}, tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())
    require_gguf(dataclasses.replace(config(), rope_scaling=LinearScaling(2.0)), None)


def test_weights_that_do_not_fit_are_refused_before_a_file_is_there(small, tmp_path):
    model, params = load_pretrained(small("llama"))
    path = tmp_path / "x.gguf"
    embedding = params["embed_tokens"]["embedding"]
    for value, dtype, message in (
        (7e4, "f16", "params/embed_tokens/embedding has a weight of magnitude 70000, which F16"),
        (1e7, "q8_0", "of magnitude 1e.07, which Q8_0 has no number for; nothing is written"),
        (np.nan, "bf16", "entries that are NaN or infinite; nothing is written"),
    ):
        broken = {**params, "embed_tokens": {"embedding": embedding.at[3, 5].set(-value)}}
        with pytest.raises(ValueError, match=message):
            save_gguf(model, broken, path, dtype=dtype)
        assert not list(tmp_path.iterdir())
    large = {**params, "embed_tokens": {"embedding": embedding.at[3, 5].set(-7e4)}}
    for dtype in ("bf16", "q8_0"):
        save_gguf(model, large, path, dtype=dtype)
        within(abs(load_pretrained(path)[1]["embed_tokens"]["embedding"][3, 5] + 7e4), 1e3)
    with pytest.raises(ValueError, match="GGUF type 'q4_0'; choose one of f16, bf16, q8_0"):
        save_gguf(model, params, path, dtype="q4_0")
    with pytest.raises(ValueError, match="has shape None, but the model's config makes it"):
        save_gguf(model, {"lm_head": params["lm_head"]}, path)


def test_a_file_that_was_torn_is_no_export(small, tmp_path, monkeypatch):
    model, params = load_pretrained(small("llama"))
    write = gguf.GGUFWriter.write_tensor_data

    def flipped(self, array, *rest):
        array = array.copy()
        array.reshape(-1).view(np.uint8)[0] ^= 1
        write(self, array, *rest)

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", flipped)
    with pytest.raises(ValueError, match=r"tensor .* is not what was written; export again"):
        save_gguf(model, params, tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())


def test_one_tensor_is_on_the_host_at_a_time(small, tmp_path, monkeypatch):
    model, params = load_pretrained(small("llama"))
    write, sizes = gguf.GGUFWriter.write_tensor_data, []

    def seen(self, array, *rest):
        assert all(info.tensor is None for part in self.tensors for info in part.values())
        sizes.append(array.nbytes)
        write(self, array, *rest)

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", seen)
    save_gguf(model, params, tmp_path / "x.gguf")
    stacked = sum(leaf.ndim == 3 for leaf in jax.tree.leaves(params))
    assert len(sizes) > 2 * stacked  # the layers of a stack go one by one
