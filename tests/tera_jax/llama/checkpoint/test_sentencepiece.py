"""SentencePiece tokenizers in GGUF files beside the ids of sentencepiece 0.2.3.

``sentencepiece.json`` holds two of its models (BPE, 560 pieces of this project's README, byte
fallback, split digits, whitespace as it is, with and without the space before a text), texts, and
what ``encode`` and ``decode`` give for them.
"""

import json
from pathlib import Path

import gguf
import pytest

from tera_jax.llama import load_tokenizer

GOLDEN = json.loads((Path(__file__).parent / "sentencepiece.json").read_text())
USER_DEFINED = 4


def write(path, pieces, types, prefix, scores=None, **fields):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    ranks = iter(range(len(pieces)))
    made = [-float(next(ranks)) if type_ == 1 else 0.0 for type_ in types]
    writer.add_token_scores(made if scores is None else scores)
    writer.add_token_types(types)
    writer.add_add_space_prefix(prefix)
    for name, id_ in ({"unk": 0, "bos": 1, "eos": 2} | fields).items():
        getattr(writer, f"add_{name}_token_id")(id_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module", params=["with_prefix", "without_prefix"])
def loaded(request, tmp_path_factory):
    model, prefix = GOLDEN[request.param], request.param == "with_prefix"
    path = tmp_path_factory.mktemp("spm") / "x.gguf"
    return load_tokenizer(write(path, model["pieces"], model["types"], prefix)), model


def starts_with_user_defined(text, model):
    """There the space before a text is a piece of its own, or a part of the symbol, in
    sentencepiece; here it is not put, as in llama.cpp."""
    symbols = [
        piece
        for piece, type_ in zip(model["pieces"], model["types"], strict=True)
        if type_ == USER_DEFINED
    ]
    return text.replace(" ", "▁").startswith(tuple(symbols)) or f"▁{text}".replace(
        " ", "▁"
    ).startswith(tuple(symbols))


def test_ids_are_those_of_sentencepiece(loaded):
    tokenizer, model = loaded
    compared = 0
    for text, ids, decoded in zip(GOLDEN["texts"], model["ids"], model["decoded"], strict=True):
        if starts_with_user_defined(text, model):
            continue
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert found == ids, repr(text)
        assert tokenizer.decode(found) == decoded, repr(text)
        compared += 1
    assert compared > 60


def test_every_leading_space_counts(loaded):
    tokenizer, _ = loaded
    texts = ["hello", " hello", "  hello", "   hello"]
    ids = {tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts}
    assert len(ids) == len(texts)
    for text in texts:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert tokenizer("hello")["input_ids"][0] == 1  # BOS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [0.0] * 3}, r"has 3 of tokenizer.ggml.scores for 4 tokens; fetch it again"),
        ({"scores": [0.0, 0.0, 0.0, float("nan")]}, r"sets tokenizer.ggml.scores to .*nan"),
        ({"types": [2, 3, 3]}, r"has 3 of tokenizer.ggml.token_type for 4 tokens"),
        ({"eos": 9}, "has eos_token_id=9, but 4 tokens; fetch it again"),
        ({"pieces": ["<unk>", "<s>", "</s>", "<s>"]}, "two tokens of the vocabulary are the same"),
    ],
)
def test_refuses(change, message, tmp_path):
    pieces = {"pieces": ["<unk>", "<s>", "</s>", "a"], "types": [2, 3, 3, 1], "prefix": True}
    given = pieces | {"scores": [0.0] * 4} | change
    with pytest.raises(ValueError, match=message):
        load_tokenizer(write(tmp_path / "x.gguf", **given))
