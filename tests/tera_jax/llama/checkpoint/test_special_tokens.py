import dataclasses
import json

import pytest
import tokenizers
import transformers

from tera_jax.llama import LlamaConfig, load_pretrained
from tera_jax.llama.checkpoint import special_tokens

SIZES = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "rms_norm_eps": 1e-5,
}


def _tokenizer(template, eos="</s>"):
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, []))
    backend.add_special_tokens(["<s>", "</s>"])
    specials = [("<s>", 0), ("</s>", 1)]
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=specials
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos)


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        ("$A", [], []),
        ("<s> $A", [0], []),
        ("$A </s>", [], [1]),
        ("<s> $A </s>", [0], [1]),
        ("<s> <s> $A </s> </s>", [0, 0], [1, 1]),
    ],
)
def test_ends_are_what_stands_around_a_text(template, before, after):
    tokenizer = _tokenizer(template)
    ends = special_tokens.ends(tokenizer)
    assert ends == (before, after)
    for text in ("ab", "", "<s>a"):
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer(text)["input_ids"] == [*ends.before, *plain, *ends.after]


def test_a_tokenizer_whose_own_tokens_change_is_refused():
    def tokenizer(text, add_special_tokens):
        return {"input_ids": [5] if add_special_tokens else [6]}

    with pytest.raises(ValueError, match=r"makes \[5\] of 'a' with .* and \[6\] without"):
        special_tokens.ends(tokenizer)


def _config(directory, generation, **changes):
    config = LlamaConfig.from_hf(SIZES | changes)
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return special_tokens.with_generation_config(config, directory)


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        (None, 2, 2),
        ({"temperature": 0.6}, 2, 2),
        ({"eos_token_id": None}, [2, 3], (2, 3)),
        ({"eos_token_id": 2}, 2, 2),
        ({"eos_token_id": 2}, [2, 3], (2, 3)),
        ({"eos_token_id": [8, 9, 9]}, 2, (2, 8, 9)),
        ({"eos_token_id": [8]}, None, 8),
        ({"eos_token_id": []}, None, None),
    ],
)
def test_eos_of_both_files(generation, config, expected, tmp_path):
    found = _config(tmp_path, generation, eos_token_id=config)
    assert found.eos_token_id == expected
    assert dataclasses.replace(found, eos_token_id=None) == LlamaConfig.from_hf(
        SIZES | {"eos_token_id": None}
    )


def test_the_tokenizers_eos_comes_first(tmp_path):
    config = _config(tmp_path, {"eos_token_id": [8, 1]}, eos_token_id=2)
    assert special_tokens.eos_ids(config, _tokenizer("$A")) == (1, 2, 8)
    assert special_tokens.eos_ids(config, _tokenizer("$A", eos=None)) == (2, 8, 1)
    without = dataclasses.replace(config, eos_token_id=None)
    assert special_tokens.eos_ids(without, _tokenizer("$A", eos=None)) == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"eos_token_id": 64}', "sets eos_token_id to 64, but the model has vocab_size=64; fetch"),
        ('{"eos_token_id": [2, 99]}', "sets eos_token_id to 99, but the model has vocab_size=64"),
        ('{"eos_token_id": -1}', "sets eos_token_id to -1, not a whole number .*of at least 0"),
        ('{"eos_token_id": 2.0}', "sets eos_token_id to 2.0, not a whole number"),
        ('{"eos_token_id": true}', "sets eos_token_id to True, not a whole number"),
        ('{"eos_token_id": "</s>"}', "generation_config.json sets eos_token_id to '</s>'"),
        ('{"eos_token_id": 2', "generation_config.json is not JSON"),
        ("[2]", "generation_config.json is not JSON .*top level is no object"),
    ],
)
def test_refuses(content, message, tmp_path):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        _config(tmp_path, None)


def test_a_loaded_model_has_them_and_so_has_its_export(tiny_path, tmp_path):
    for file in tiny_path("llama-3").iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    config = load_pretrained(tmp_path)[0].config
    assert config.eos_token_id == (2, 5)
    assert config.to_hf()["eos_token_id"] == [2, 5]
