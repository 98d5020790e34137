"""SentencePiece tokenizers of Gemma and Phi-3 in GGUF files beside transformers'."""

import functools
import json

import gguf
import pytest
import tokenizers
import transformers

from tera_jax.llama import load_tokenizer
from tests.tera_jax.llama.checkpoint.gguf_tokenizers import LEARNED, TEXTS, finish, save_hf

CONTROL, USER_DEFINED = 3, 4
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
GEMMA = {
    **dict.fromkeys(("<pad>", "<eos>", "<bos>"), CONTROL),
    "<unk>": 2,
    **dict.fromkeys(("<start_of_turn>", "<end_of_turn>"), CONTROL),
    # llama.cpp's converter has the spaces of these as they are in a text.
    **dict.fromkeys(("\n\n", "\n\n\n", "  ", "   ", "    ", "<table>", "</table>"), USER_DEFINED),
}
PHI_3 = {
    "<unk>": 2,
    "<s>": CONTROL,
    "</s>": CONTROL,
    **dict.fromkeys(("<|endoftext|>", "<|user|>", "<|end|>", "<|assistant|>"), CONTROL),
}


@functools.cache
def pieces() -> tuple[str, ...]:
    """Those of more than a letter first, in the order of their merges."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace("▁", split=True)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=360, show_progress=False)
    lines = [line for text in LEARNED for line in text.split("\n")]
    backend.train_from_iterator(lines * 3, trainer)
    learned = sorted(backend.get_vocab(), key=backend.get_vocab().get)
    return (*(p for p in learned if len(p) > 1), *(p for p in learned if len(p) == 1))


def write(path, arch, named, bos, prefix):
    tokens = [*named, *BYTES, *pieces()]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    first = len(tokens) - len(pieces())
    writer.add_token_scores([-1000.0] * first + [-float(rank) for rank in range(len(pieces()))])
    writer.add_token_types([*named.values(), *[6] * 256, *[1] * len(pieces())])
    writer.add_bos_token_id(tokens.index(bos))
    writer.add_unk_token_id(tokens.index("<unk>"))
    writer.add_add_space_prefix(prefix)
    finish(writer)
    return path


@pytest.mark.parametrize("arch", ["gemma2", "gemma3"])
def test_gemma_ids_are_those_of_transformers(arch, tmp_path):
    ours = load_tokenizer(write(tmp_path / "x.gguf", arch, GEMMA, "<bos>", False))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="x.gguf")
    kinds = ("GemmaTokenizer", f"{arch}_text" if arch == "gemma3" else arch)
    hf = load_tokenizer(save_hf(theirs, kinds, tmp_path / "hf", "<eos>", bos_token="<bos>"))
    chat = "<start_of_turn>user\n Hi  there<end_of_turn>\n<start_of_turn>model\n"
    for text in [*TEXTS, chat, "<table>a  b\n\n\n\nc</table>", "a       b"]:
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"], text
        assert ids[1:] == hf(text, add_special_tokens=False)["input_ids"], text
        assert ids[0] == ours.convert_tokens_to_ids("<bos>")
        assert ours.decode(ids[1:]) == text
    # No space is put before a text, and every space of one counts.
    spaces = [ours(" " * count + "hello")["input_ids"] for count in range(4)]
    assert len(set(map(tuple, spaces))) == 4
    other = load_tokenizer(write(tmp_path / "y.gguf", arch, GEMMA, "<bos>", True))
    assert other("hello")["input_ids"] == spaces[1]


def test_phi_3_ids_are_those_of_transformers(tmp_path):
    ours = load_tokenizer(write(tmp_path / "x.gguf", "phi3", PHI_3, "<s>", True))
    # Transformers' reader does not know that tokens of the chat take the whitespace after them.
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="x.gguf")
    content = json.loads(theirs.backend_tokenizer.to_str())
    for token in content["added_tokens"]:
        token["rstrip"] = token["content"] not in ("<unk>", "<s>", "<|endoftext|>")
    published = tokenizers.Tokenizer.from_str(json.dumps(content))
    chat = "<|user|>\nWho are  you?<|end|>\n<|assistant|>\n I am<|end|> \n\n<|endoftext|> a<s> b"
    for text in [*TEXTS, chat, "a<|end|>b"]:
        ids = ours(text, add_special_tokens=False)["input_ids"]
        assert ids == published.encode(text, add_special_tokens=False).ids, text
    found = ours(chat, add_special_tokens=False)["input_ids"]
    assert found != theirs(chat, add_special_tokens=False)["input_ids"]
    plain = load_tokenizer(write(tmp_path / "y.gguf", "llama", PHI_3, "<s>", True))
    assert found != plain(chat, add_special_tokens=False)["input_ids"]
