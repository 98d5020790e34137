"""GGUF files of every family give the model that they were written from."""

import dataclasses

import gguf
import jax
import numpy as np
import pytest
import torch
import transformers

from tera_jax.llama import load_config, load_pretrained
from tera_jax.llama.family.gguf_rows import ROWS
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.llama.checkpoint import gguf_conversion
from tests.tera_jax.llama.checkpoint.gguf_conversion import convert
from tests.tera_jax.llama.family import models

TOLERANCE = 2e-5  # of the range of the logits
LENGTH = 24  # longer than any window, and than what LongRoPE calls short
# The metadata have no scale of the queries: it is that of the head's entries.
_SCALE = {"query_pre_attn_scalar": 32}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
FAMILIES = {
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", _SCALE),
    "gemma3": ("gemma3", _SCALE),
    "gemma3-six": ("gemma3", _SCALE | {"layer_types": None, "tie_word_embeddings": False}),
    "phi3": ("phi3", {}),
    "phi3-long": ("phi3-long", {}),
    "olmo2": ("olmo2", {}),
    "granite": ("granite", {}),
    # Every fourth layer has no RoPE.
    "smollm3": ("smollm3", {"no_rope_layers": None, "mlp_bias": True}),
    "llama-biases": ("llama-biases", {}),
    "qwen2.5": ("qwen2.5", {}),
    "qwen2.5-yarn": (
        "qwen2.5",
        {
            "rope_parameters": _YARN
            | {"original_max_position_embeddings": 64, "beta_fast": 20.0, "beta_slow": 2.0}
        },
    ),
    "llama-linear": ("llama-linear", {}),
}
QUICK = ["gemma3", "phi3-long", "granite"]
CHEAP = [*QUICK, "phi3", "olmo2", "smollm3", "llama-linear"]
PATTERNS = {"gemma3": {"attention.sliding_window_pattern": [True, True, False] * 2}}
"""Metadata of newer files, where the windows are not the family's."""
READ_BY_TRANSFORMERS = {
    # Its reader knows neither the soft caps nor the scale of the queries: these are its defaults.
    "gemma2": ("Gemma2", {"head_dim": 256, "sliding_window": 6}),
    "gemma3": (
        "Gemma3Text",
        {
            "head_dim": 256,
            "sliding_window": 6,
            "num_hidden_layers": 6,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "phi3": ("Phi3", {"sliding_window": None}),
}


def relative(ours, theirs):
    return float(np.max(np.abs(ours - theirs)) / np.ptp(theirs))


def rounded(config):
    """The fields, numbers as in float32, which metadata and tensors are in."""
    return jax.tree.map(
        lambda value: np.float32(value) if isinstance(value, float) else value,
        dataclasses.asdict(config),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Directory and GGUF file of each of ``FAMILIES``, written once."""
    found = {}

    def make(case):
        if case not in found:
            family, changes = FAMILIES[case]
            directory = tmp_path_factory.mktemp(case)
            models.save(family, directory, **changes)
            path = tmp_path_factory.mktemp("gguf") / f"{case}.gguf"
            found[case] = directory, convert(directory, path, PATTERNS.get(case))
        return found[case]

    return make


@pytest.mark.parametrize("case", quick_only(CHEAP, FAMILIES))
def test_config_and_weights_are_those_of_the_checkpoint(case, made, assert_same):
    directory, path = made(case)
    model, params = load_pretrained(directory)
    found, loaded = load_pretrained(path)
    assert rounded(found.config) == rounded(model.config)
    if not model.config.norm_offset:
        assert_same(loaded, params)
    # 1 was added to the scales of some and is subtracted again.
    leaves = zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True)
    within(max(np.max(np.abs(ours - theirs)) for ours, theirs in leaves), 1e-6)


@pytest.mark.parametrize("case", quick_only(QUICK, FAMILIES))
def test_logits_equal_the_model_it_was_written_from(case, made, load_torch, apply):
    directory, path = made(case)
    tokens_BL = np.random.default_rng(0).integers(3, 128, (2, LENGTH)).astype(np.int32)
    with torch.no_grad():
        theirs = load_torch(directory)(torch.tensor(tokens_BL)).logits.numpy()
    model, params = load_pretrained(path)
    ours = apply(model, params, tokens_BL)
    print(f"largest difference over range {relative(ours, theirs):.1e}")  # shown by pytest -rP
    within(relative(ours, theirs), TOLERANCE)
    assert relative(ours[:, ::-1], theirs) > 100 * TOLERANCE


@pytest.mark.parametrize("family", quick_only(["gemma2"], READ_BY_TRANSFORMERS))
def test_logits_equal_transformers_reader(family, tmp_path, load_torch, apply):
    models.write(*READ_BY_TRANSFORMERS[family], tmp_path / "hf")
    path = convert(tmp_path / "hf", tmp_path / "x.gguf", {"vocab_size": 128})
    tokens_BL = np.random.default_rng(0).integers(3, 128, (2, LENGTH)).astype(np.int32)
    with torch.no_grad():
        theirs = load_torch(path)(torch.tensor(tokens_BL)).logits.numpy()
    model, params = load_pretrained(path)
    ours = apply(model, params, tokens_BL)
    print(f"largest difference over range {relative(ours, theirs):.1e}")
    within(relative(ours, theirs), TOLERANCE)
    # Whose norms are not 1 + w gives other logits.
    moved = jax.tree.map_with_path(
        lambda path, leaf: leaf + 0.01 if path[-1].key == "scale" else leaf, params
    )
    assert relative(apply(model, moved, tokens_BL), theirs) > 10 * TOLERANCE


@pytest.mark.parametrize("case", quick_only(CHEAP, FAMILIES))
def test_every_key_of_the_metadata_counts(case, made, tmp_path):
    """Another value gives another config, or is refused."""
    directory, path = made(case)
    expected = load_config(path)
    arch = expected.model_type.removesuffix("_text")
    config = transformers.AutoConfig.from_pretrained(directory)
    for key, value in (gguf_conversion.metadata(config) | PATTERNS.get(case, {})).items():
        if value is None:
            continue
        other = {
            str: lambda value: "none",
            int: lambda value: 2 * value if value else 8,
            float: lambda value: value * 1.5,
            list: lambda value: value[::-1],
        }[type(value)](value)
        changed = copy_with(path, tmp_path / "x.gguf", f"{arch}.{key}", other)
        try:
            found = load_config(changed)
        except ValueError:
            continue
        assert found != expected, key


def copy_with(path, out, key, value):
    """The metadata of a file with one key of another value, and the tensors that say something."""
    reader = gguf.GGUFReader(path)
    arch = reader.get_field("general.architecture").contents()
    writer = gguf.GGUFWriter(out, arch)
    fields = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith(("GGUF.", "general."))
    }
    for name, given in (fields | {key: value}).items():
        gguf_conversion.add(writer, name, given)
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.") or tensor.name.endswith(".bias"):
            writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.mark.parametrize(
    ("arch", "layers", "width", "heads", "head_dim", "scalar"),
    [
        ("gemma2", 46, 4608, 32, 128, 144),
        ("gemma2", 42, 3584, 16, 256, 256),
        ("gemma3", 62, 5376, 32, 128, 168),
        ("gemma3", 48, 3840, 16, 256, 256),
    ],
)
def test_the_largest_gemma_scales_its_queries_by_the_width(
    arch, layers, width, heads, head_dim, scalar, tmp_path
):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", arch)
    for key, value in {
        "block_count": layers,
        "context_length": 8192,
        "embedding_length": width,
        "feed_forward_length": 64,
        "attention.head_count": heads,
        "attention.head_count_kv": heads // 2,
        "attention.key_length": head_dim,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }.items():
        gguf_conversion.add(writer, f"{arch}.{key}", value)
    writer.add_tensor("token_embd.weight", np.zeros((4, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = load_config(tmp_path / "x.gguf")
    assert config.query_scalar == scalar
    # Old files have neither the caps, nor a window or its pattern, nor a theta.
    if arch == "gemma2":
        assert (config.attention_soft_cap, config.logit_soft_cap) == (50, 30)
        assert config.sliding_window == 4096
        assert config.sliding_layers == (True, False) * (layers // 2)
        assert config.rope_theta == 10000
    else:
        assert config.sliding_window is None
        assert (config.rope_theta, config.local_rope_theta) == (1e6, 1e4)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("olmo2", {"attention.sliding_window": 8}, "olmo2.attention.sliding_window to 8, not 0"),
        ("granite", {"attention.scale": None}, "lacks granite.attention.scale, a number above 0"),
        (
            "granite",
            {"rope.scaling.finetuned": False},
            "granite.rope.scaling.finetuned to False, not true",
        ),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "unknown key 'gemma3.attn_logit_softcapping'"),
        ("smollm3", {"expert_count": 4}, "sets smollm3.expert_count to 4, not 0"),
        (
            "gemma3",
            {"attention.sliding_window_pattern": [True, False]},
            "has 2 entries of gemma3.attention.sliding_window_pattern for 6 layers",
        ),
        ("phi3", {"rope.dimension_count": 20}, "rope.dimension_count to 20, not the head dimens"),
        ("phi3", {"rope.scaling.type": "longrope"}, "lacks phi3.rope.scaling.original_context_le"),
        ("llama-linear", {"rope.scaling.factor": None}, "lacks llama.rope.scaling.factor"),
        ("llama-linear", {"rope.scaling.attn_factor": 2.0}, "attn_factor to 2.0 without LongRoPE"),
        ("phi3-long", {"rope.scaling.type": "linear"}, "lacks phi3.rope.scaling.factor"),
        (
            "phi3-long",
            {
                "rope.scaling.type": "linear",
                "rope.scaling.factor": 2.0,
                "rope.scaling.attn_factor": 1.0,
            },
            "type='linear' and of the tensors of frequencies .*'rope_factors_long.weight', ",
        ),
    ],
)
def test_refuses(case, changes, message, made, tmp_path):
    path = convert(made(case)[0], tmp_path / "x.gguf", changes)
    with pytest.raises(ValueError, match=message):
        load_config(path)


@pytest.mark.parametrize("case", ["olmo2", "phi3", "gemma3"])
def test_tensors_of_other_names_are_refused(case, made, tmp_path, monkeypatch):
    more = {"blk.0.attn_sinks.weight": [1.0], "blk.0.post_attention_layernorm.weight": [1.0]}
    monkeypatch.setattr(gguf_conversion, "frequency_factors", lambda config: more)
    path = convert(made(case)[0], tmp_path / "x.gguf")
    with pytest.raises(ValueError, match=r"2 tensors \(blk.0.attn_sinks.weight, blk.0.post_atten"):
        load_pretrained(path)


def test_every_row_has_a_case():
    kinds = {
        models.FAMILIES[family][0].removesuffix("Text").lower() for family, _ in FAMILIES.values()
    }
    assert set(ROWS) - {"qwen3"} == kinds
