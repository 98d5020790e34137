"""Tokens are the bytes that they write, and prompts are those of the library."""

import random

import pytest

from tera_jax.llama.prompts import encode
from tera_jax.serve.http.codec import Codec
from tera_jax.serve.http.generation.answers import Writer
from tera_jax.serve.requests import Token
from tests.tera_jax.llama.test_pieces import TEXT, _sentencepiece


@pytest.fixture(params=["bytes", "sentencepiece"])
def tokenizer(request, whole_tokenizer):
    if request.param == "bytes":
        return whole_tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=_sentencepiece(), unk_token="<unk>", clean_up_tokenization_spaces=False
    )


def test_joined_bytes_are_the_text(tokenizer):
    codec = Codec(tokenizer)
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    joined = b"".join(map(codec.bytes_of, ids)).decode()
    assert joined.removeprefix(" ") == TEXT == codec.decode(ids)


def test_pieces_of_random_tokens_are_their_text(tokenizer):
    codec, draw = Codec(tokenizer), random.Random(0)
    size = min(len(tokenizer), 1000)
    for _ in range(100):
        ids = [draw.randrange(size) for _ in range(15)]
        writer = Writer(codec, with_tokens=True)
        pieces = [*(writer.push(Token(id_)) for id_ in ids), writer.rest()]
        assert "".join(text for text, _ in pieces) == codec.decode(ids)
        assert [placed.token.id for _, tokens in pieces for placed in tokens] == ids


def test_a_completion_goes_on_with_the_blank_of_the_prompt(tokenizer):
    """An answer to a chat loses SentencePiece's first blank, as ``decode`` does."""
    codec = Codec(tokenizer)
    prompt, after = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "a and")
    )
    after = after[len(prompt) :]
    for given, expected in ((prompt, " and"), ((), codec.decode(after))):
        writer = Writer(codec, after=given)
        text = "".join(writer.push(Token(id_))[0] for id_ in after) + writer.rest()[0]
        assert text == expected
    assert codec.encode("a and") == encode(tokenizer, "a and")
