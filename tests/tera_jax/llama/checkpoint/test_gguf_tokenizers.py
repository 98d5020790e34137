"""Byte-level tokenizers in GGUF files beside transformers' own and OpenAI's tiktoken."""
# ruff: noqa: RUF001 (letters that look like others are what tokenizers are tried on)

import gguf
import pytest
import tiktoken
import tiktoken_ext.openai_public
import tokenizers
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from tera_jax.llama import load_pretrained, load_tokenizer
from tera_jax.llama.checkpoint.pre_tokenizers import CUTS
from tests.tera_jax.llama.checkpoint.gguf_conversion import convert
from tests.tera_jax.llama.checkpoint.gguf_tokenizers import (
    KINDS,
    TEXTS,
    finish,
    save_hf,
    texts,
    theirs_of,
    with_pattern,
    write_bpe,
)
from tests.tera_jax.llama.family import models


@pytest.mark.parametrize("name", KINDS)
def test_byte_level_ids_are_those_of_transformers(name, tmp_path):
    kind = KINDS[name]
    theirs = theirs_of(kind)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "qwen2")
    write_bpe(writer, theirs, kind.pre)
    finish(writer)
    ours = load_tokenizer(tmp_path / "x.gguf")
    from_hf = load_tokenizer(save_hf(theirs, kind.published, tmp_path / "hf", kind.specials[-1]))
    for text in texts(kind):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours(text)["input_ids"] == ids, text
        assert from_hf(text, add_special_tokens=False)["input_ids"] == ids, text
        assert ours.decode(ids) == text
    # Another cut gives other ids somewhere.
    other = next(name for name, cut in CUTS.items() if cut.pattern != CUTS[kind.pre].pattern)
    writer = gguf.GGUFWriter(tmp_path / "y.gguf", "qwen2")
    write_bpe(writer, theirs, other)
    finish(writer)
    wrong = load_tokenizer(tmp_path / "y.gguf")
    assert any(wrong(text)["input_ids"] != ours(text)["input_ids"] for text in texts(kind))


@pytest.mark.parametrize(("pre", "encoding"), [("dbrx", "cl100k_base"), ("gpt-4o", "o200k_base")])
def test_ids_are_those_of_tiktoken(pre, encoding, tmp_path, monkeypatch):
    theirs = theirs_of(KINDS["olmo 2"]._replace(make=with_pattern(GGUF_PRE_TOKENIZER_SPLITS[pre])))
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "olmo2")
    write_bpe(writer, theirs, pre)
    finish(writer)
    ours = load_tokenizer(tmp_path / "x.gguf")
    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    ranks = {
        bytes(letters[letter] for letter in token): id_
        for token, id_ in theirs.get_vocab().items()
        if set(token) <= letters.keys() and not token.startswith("<|")
    }
    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", lambda *_, **__: ranks)
    made = getattr(tiktoken_ext.openai_public, encoding)()
    made["special_tokens"] = {"<|end|>": len(ranks)}
    reference = tiktoken.Encoding(**made)
    for text in TEXTS:
        assert ours(text)["input_ids"] == reference.encode(text), text


@pytest.mark.parametrize("pre", ["dbrx", "gpt-4o", "tekken", "smaug-bpe"])
def test_transformers_reader_gives_the_same(pre, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    write_bpe(writer, theirs_of(KINDS["olmo 2"]), pre)
    finish(writer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="x.gguf")
    ours = load_tokenizer(tmp_path / "x.gguf")
    for text in [*TEXTS, "a<|end|>\nb"]:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text


DEEPSEEK_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
    "{{ '<｜User｜>' + message.content }}{% else %}{{ '<｜Assistant｜>' + message.content }}"
    "{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)


def test_a_distilled_qwen_is_read_with_its_chat(tmp_path, assert_same):
    kind = KINDS["deepseek"]
    theirs = theirs_of(kind)
    backend, (bos, eos) = theirs.backend_tokenizer, kind.specials
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=[bos, "$A"], special_tokens=[(bos, backend.token_to_id(bos))]
    )
    hf = save_hf(
        theirs,
        kind.published,
        tmp_path / "hf",
        eos,
        bos_token=bos,
        add_bos_token=True,
        chat_template=DEEPSEEK_TEMPLATE,
    )

    def metadata(writer):
        write_bpe(writer, theirs, kind.pre, bos)
        writer.add_eos_token_id(backend.token_to_id(eos))
        writer.add_pad_token_id(backend.token_to_id(eos))
        writer.add_chat_template(DEEPSEEK_TEMPLATE)

    models.write("Qwen2", {"vocab_size": len(theirs) + 7}, tmp_path / "model")
    path = convert(tmp_path / "model", tmp_path / "x.gguf", tokenizer=metadata)
    model, params = load_pretrained(path)
    assert_same(params, load_pretrained(tmp_path / "model")[1])
    assert (model.config.model_type, model.config.vocab_size) == ("qwen2", len(theirs) + 7)
    assert model.config.eos_token_id == backend.token_to_id(eos)
    ours, reference = load_tokenizer(path), transformers.AutoTokenizer.from_pretrained(hf)
    for text in texts(kind):
        ids = ours(text)["input_ids"]
        assert ids == reference(text)["input_ids"]
        assert ids[0] == ours.bos_token_id == model.config.bos_token_id
    chat = [{"role": "user", "content": "Hello 12 worlds"}, {"role": "assistant", "content": "a"}]
    for messages in (chat[:1], chat, [*chat, chat[0]]):
        rendered, expected = (
            each.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            for each in (ours, reference)
        )
        assert rendered == expected
        found = ours(rendered, add_special_tokens=False)["input_ids"]
        assert found == reference(rendered, add_special_tokens=False)["input_ids"]
        marks = [backend.token_to_id(mark) for mark in (bos, "<｜User｜>", "<think>")]
        assert found[:2] == marks[:2]
        assert marks[2] in found
