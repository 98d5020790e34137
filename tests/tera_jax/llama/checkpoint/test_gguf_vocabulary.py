"""Tokenizers that are written to GGUF files, read here and by transformers."""

import gguf
import pytest
import tokenizers
import transformers
from tokenizers import AddedToken, pre_tokenizers

from tera_jax.llama import LlamaConfig, load_tokenizer
from tera_jax.llama.checkpoint.gguf_export.vocabulary import add_vocabulary, of_tokenizer
from tera_jax.llama.checkpoint.pre_tokenizers import CUTS
from tests.tera_jax.llama.checkpoint.gguf_tokenizers import (
    KINDS,
    finish,
    texts,
    theirs_of,
    with_pattern,
)
from tests.tera_jax.llama.family import models

TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CHAT = [{"role": "user", "content": "Hello 12 worlds"}, {"role": "assistant", "content": "a"}]
UNKNOWN_TO_TRANSFORMERS = {"smollm", "granite", "deepseek"}
"""Its reader cuts the first two as GPT-2 does, and skips the last one's tokens with wide bars."""


def config(rows, **ids):
    given = {**models.SMALL, "model_type": "llama", "rms_norm_eps": 1e-6, **ids}
    given.pop("initializer_range")
    return LlamaConfig.from_hf({**given, "vocab_size": rows})


def tokenizer_of(name):
    found = theirs_of(KINDS[name])
    found.eos_token = KINDS[name].specials[-1]
    found.chat_template = TEMPLATE
    found.backend_tokenizer.model.ignore_merges = CUTS[KINDS[name].pre].whole_words
    return found


def written(tokenizer, path, rows=7, **ids):
    said = of_tokenizer(tokenizer, config(len(tokenizer) + rows, **ids))
    writer = gguf.GGUFWriter(path, "llama")
    add_vocabulary(writer, said)
    finish(writer)
    return said


@pytest.mark.parametrize("name", KINDS)
def test_tokens_and_chats_are_read_back(name, tmp_path):
    kind, theirs = KINDS[name], tokenizer_of(name)
    said = written(theirs, tmp_path / "x.gguf")
    # Names that cut alike stand for each other: whether texts start with bos is written beside.
    assert CUTS[said.pre]._replace(bos=False) == CUTS[kind.pre]._replace(bos=False)
    assert CUTS[said.pre].whole_words == theirs.backend_tokenizer.model.ignore_merges
    readers = [load_tokenizer(tmp_path / "x.gguf")]
    if name not in UNKNOWN_TO_TRANSFORMERS:
        readers.append(transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="x.gguf"))
    for reader in readers:
        for text in texts(kind):
            assert reader(text)["input_ids"] == theirs(text)["input_ids"], text
        for messages in (CHAT[:1], CHAT):
            rendered, expected = (
                each.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                for each in (reader, theirs)
            )
            assert rendered == expected
            assert kind.specials[-1] in rendered
    # A token of another text would be seen.
    assert theirs("Hello 12")["input_ids"] != theirs("Hello 13")["input_ids"]


def test_ids_and_rows_without_a_token(tmp_path):
    theirs = tokenizer_of("qwen 2")
    start, end = (theirs.convert_tokens_to_ids(mark) for mark in ("<|im_start|>", "<|im_end|>"))
    said = written(theirs, tmp_path / "x.gguf", eos_token_id=[5, end], bos_token_id=start)
    assert said.ids == {
        "bos_token_id": start,  # and no pad: token 0 of the config is a plain one
        "eos_token_id": end,
        "eot_token_id": 5,
    }
    size = len(theirs)
    assert said.tokens[size:] == [f"[PAD{size + row}]" for row in range(7)]
    assert {*said.types[size:]} == {gguf.TokenType.UNUSED}
    assert said.types[end] == gguf.TokenType.CONTROL
    assert said.types[theirs.convert_tokens_to_ids("<tool_call>")] == gguf.TokenType.USER_DEFINED
    assert (said.add_bos, said.add_eos) == (False, False)
    # A plain token that ends an answer stays a plain one for the tokenizer.
    theirs.eos_token = None
    assert of_tokenizer(theirs, config(size, eos_token_id=7)).ids == {"eot_token_id": 7}
    # One that a template names is not made up.
    theirs.chat_template = "{{ bos_token }}" + TEMPLATE
    assert "bos_token_id" not in of_tokenizer(theirs, config(size, bos_token_id=start)).ids


def test_what_stands_around_a_text(tmp_path):
    theirs = tokenizer_of("deepseek")
    bos, eos = KINDS["deepseek"].specials
    ids = [(mark, theirs.convert_tokens_to_ids(mark)) for mark in (bos, eos)]
    theirs.bos_token = bos
    theirs.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=[bos, "$A", eos], special_tokens=ids
    )
    said = written(theirs, tmp_path / "x.gguf")
    assert (said.add_bos, said.add_eos) == (True, True)
    ours = load_tokenizer(tmp_path / "x.gguf")
    assert ours("Hello")["input_ids"] == theirs("Hello")["input_ids"]
    assert ours("Hello")["input_ids"][0] == ids[0][1]
    theirs.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=[eos, "$A"], special_tokens=ids
    )
    with pytest.raises(ValueError, match=r"puts \[\d+\] around a text, but a GGUF file bos alone"):
        of_tokenizer(theirs, config(len(theirs)))


def without_digits(tokenizer):
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)


def with_a_space(tokenizer):
    cut, _ = with_pattern("x")(["x"], []).backend_tokenizer.pre_tokenizer
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
    )


def decoded_in_pieces(tokenizer):
    tokenizer.backend_tokenizer.decoder = tokenizers.decoders.WordPiece()


def stripping(tokenizer):
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_digits, r'the pre-tokenizer \{"type": "ByteLevel".* is none of those that GGUF'),
        (
            with_a_space,
            r'the pre-tokenizer \{"type": "Sequence".* none of those that GGUF files na',
        ),
        (decoded_in_pieces, "holds byte-level BPE alone, .* and the decoder WordPiece"),
        (stripping, "cannot say that the token '<mask>' has lstrip"),
    ],
)
def test_a_tokenizer_that_no_file_can_say_is_refused_by_name(change, message):
    theirs = tokenizer_of("smollm")
    change(theirs)
    with pytest.raises(ValueError, match=message):
        of_tokenizer(theirs, config(len(theirs)))


def test_ids_that_do_not_fit_are_refused():
    theirs = tokenizer_of("smollm")
    with pytest.raises(ValueError, match=r"has token ids up to \d+, but the model has vocab_size="):
        of_tokenizer(theirs, config(len(theirs) - 1))
    stops = [3, 4, 5, 6]
    with pytest.raises(ValueError, match="names 3 tokens that end an answer, but the model has"):
        of_tokenizer(theirs, config(len(theirs), eos_token_id=stops))
