"""Pieces of text: joined they are the whole, and none ends within a character."""

import random

import pytest

from tera_jax.llama import load_tokenizer
from tera_jax.llama.pieces import Detokenizer, pieces, until

TEXT = "naïve 漢字 and 🙂👩‍👩‍👧 — done.  Two  spaces\n"


def _sentencepiece():
    """A tokenizer with bytes and the space of SentencePiece."""
    from tera_jax.llama.checkpoint.tokenizer import _sentencepiece as build

    letters = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "n", "d", "o", "e"]
    vocabulary = {token: id_ for id_, token in enumerate(letters)}
    types = [2, *[6] * 256, *[1] * (len(letters) - 257)]
    return build(vocabulary, [0.0] * len(letters), types, prefix="first")


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def codec(request, smollm2_path):
    if request.param == "sentencepiece":
        backend = _sentencepiece()
        return lambda text: backend.encode(text).ids, backend.decode
    tokenizer = load_tokenizer(smollm2_path)
    return lambda text: tokenizer(text)["input_ids"], tokenizer.decode


def test_joined_they_are_the_text_and_no_character_is_cut(codec):
    encode, decode = codec
    ids = encode(TEXT)
    found = [*pieces(ids, decode)]
    assert "".join(found) == decode(ids) == TEXT
    assert "�" not in "".join(found)
    assert len(found) > 10
    # One token at a time would cut characters, or lose the spaces between words.
    assert "".join(decode([id_]) for id_ in ids) != TEXT


def test_random_tokens_joined_are_their_text(smollm2_path):
    """Also where bytes are none of UTF-8, and where blanks come first."""
    tokenizer = load_tokenizer(smollm2_path)
    backend = _sentencepiece()
    draw = random.Random(0)
    for trial in range(60):
        ids = [draw.randrange(1000) for _ in range(12)]
        assert "".join(pieces(ids, tokenizer.decode)) == tokenizer.decode(ids)
        ids = [draw.choice([draw.randrange(1, 257), 257, 258, 259]) for _ in range(12)]
        assert "".join(pieces(ids, backend.decode, holds=lambda id_: id_ < 257)) == (
            backend.decode(ids)
        )
        before, after = ids[: trial % 5], ids[trial % 5 :]
        text = Detokenizer(backend.decode, lambda id_: id_ < 257, before)
        joined = "".join(map(text.push, after)) + text.rest()
        goes_on = before and before[-1] >= 257 and backend.decode(before)
        whole = backend.decode(ids)[len(backend.decode(before)) :]
        assert joined == (whole if goes_on else backend.decode(after))


def test_what_ends_within_a_character_is_told_as_the_whole_text_is(codec):
    encode, decode = codec
    ids = encode("and 𓀀")[:-1]
    assert "".join(pieces(ids, decode)) == decode(ids)
    assert decode(ids).endswith("�")


def test_a_piece_comes_before_the_next_token_is_asked_for(codec):
    encode, decode = codec
    asked = []

    def given():
        for id_ in encode("and done"):
            asked.append(id_)
            yield id_

    next(pieces(given(), decode))
    assert len(asked) < len(encode("and done"))


@pytest.mark.parametrize(
    ("given", "stop", "expected"),
    [
        (["one Q", ": two"], ["Q:"], ["one "]),
        (["one Q", "uite"], ["Q:"], ["one ", "Quite"]),
        (["ab", "c#", "##x"], ["###"], ["ab", "c"]),
        (["ab", "aab"], ["aaab", "aab"], ["ab"]),
        (["one"], [], ["one"]),
        (["one"], [""], ["one"]),
        (["x Q"], ["Q:"], ["x ", "Q"]),
    ],
)
def test_a_text_ends_before_the_first_stop(given, stop, expected):
    assert [*until(given, stop)] == expected
