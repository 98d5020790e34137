"""``generation_config.json``: what is used is what transformers uses, and the rest is named."""

import dataclasses
import json

import pytest
import transformers

from tera_jax.llama import GenerationConfig, load_generation_config
from tera_jax.llama.checkpoint import generation_config


def _write(directory, **content):
    (directory / "config.json").write_text("{}")
    (directory / "generation_config.json").write_text(json.dumps(content))
    return directory


LLAMA_3 = {
    "bos_token_id": 128000,
    "do_sample": True,
    "eos_token_id": [128001, 128008, 128009],
    "max_length": 4096,
    "temperature": 0.6,
    "top_p": 0.9,
    "transformers_version": "4.42.3",
}
QWEN_2 = {
    "do_sample": True,
    "pad_token_id": 151643,
    "repetition_penalty": 1.05,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
}
GREEDY_WITH_TEMPERATURE = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}


@pytest.mark.parametrize("content", [LLAMA_3, QWEN_2, GREEDY_WITH_TEMPERATURE, {}])
def test_published_files_mean_what_they_mean_to_transformers(content, tmp_path):
    found = load_generation_config(_write(tmp_path, **content), max_new_tokens=7)
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
    theirs.update(**theirs._get_default_generation_params(), defaults_only=True)
    names = {field.name for field in dataclasses.fields(GenerationConfig)} - {"max_new_tokens"}
    if not theirs.do_sample:
        names -= {"top_k"}  # 50 by default, and unused
    assert {name: getattr(found.config, name) for name in names} == {
        name: getattr(theirs, name) for name in names
    }
    assert found.unused == ()
    assert found.config.max_new_tokens == 7


def test_what_would_change_the_answers_and_is_not_used_is_named(tmp_path):
    content = {"min_p": 0.1, "suppress_tokens": [3], "bad_words_ids": None, "typical_p": 1.0}
    content |= {"sequence_bias": {}, "new_key": True, "max_new_tokens": 5}
    found = load_generation_config(_write(tmp_path, **content))
    assert found.unused == ("min_p=0.1", "suppress_tokens=[3]", "new_key=True")
    assert found.config == GenerationConfig(max_new_tokens=5)


def test_beams_that_are_sampled_give_way_to_one_that_is(tmp_path):
    found = load_generation_config(_write(tmp_path, do_sample=True, num_beams=4))
    assert found.unused == ("num_beams=4 with do_sample",)
    assert found.config.do_sample


def test_temperature_0_is_greedy(tmp_path):
    found = load_generation_config(_write(tmp_path, do_sample=True, temperature=0.0, top_p=0.9))
    assert not found.config.do_sample


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"temperature": "warm"}, "sets temperature to"),
        ({"top_p": 1.5}, r"generation_config\.json: top_p=1\.5 must be above 0 and at most 1"),
        ({"max_new_tokens": 0}, "sets max_new_tokens to 0, not"),
        ({"early_stopping": "soon"}, "sets early_stopping to"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_generation_config(_write(tmp_path, **content))


def test_no_file_is_greedy_decoding(smollm2_path):
    assert load_generation_config(smollm2_path, 9).config == GenerationConfig(max_new_tokens=9)


def test_what_is_written_for_an_export_is_the_bases_with_all_ends(tmp_path):
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    out.mkdir()
    _write(base, **QWEN_2, eos_token_id=5)
    generation_config.write(out, base, (2, 5))
    written = json.loads((out / "generation_config.json").read_text())
    assert written == {**QWEN_2, "eos_token_id": [2, 5]}
    assert transformers.GenerationConfig.from_pretrained(out).eos_token_id == [2, 5]
    generation_config.write(out, None, (2,))
    written = json.loads((out / "generation_config.json").read_text())
    assert written == {"do_sample": False, "eos_token_id": 2}
