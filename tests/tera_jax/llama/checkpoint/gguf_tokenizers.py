"""Byte-level tokenizers of transformers by the names that llama.cpp has for their cut.

A small vocabulary is learned here, and written to GGUF files as llama.cpp's converter does.
"""
# ruff: noqa: RUF001 (letters that look like others are what tokenizers are tried on)

import functools
import json
from collections.abc import Callable
from typing import NamedTuple

import tokenizers
import transformers
from tokenizers import AddedToken, pre_tokenizers
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

TEXTS = [
    "Hello world, hello",
    "  two  spaces,   three, a tab\tand\n\nnew lines \n \n\n\nend  ",
    "It's 1234567 and 3.14; we'll see, I'D say they've DON'T, 12 345",
    "Grüße, naïve café — ÉCOLE ПриветМир 東京は雨 안녕 🙂🏽👩‍👩‍👧",
    "def fooBar(x):\n    return HTTPServer // x**2  # comment/\r\n",
    "...!!! ''' ?//\n/\n (a)[b]{c}",
    "",
    " ",
]
LEARNED = [
    *TEXTS,
    "hello world and the café of fooBar, they've seen 123 and 12 spaces; 東京 Привет",
]


@functools.cache
def byte_level() -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and merges, the bytes first and merged tokens in the order of their merges.

    They are learned of lines that are not cut, so that each cut gives other ids.
    """
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(LEARNED * 3, trainer)
    vocabulary = backend.get_vocab()
    merges = json.loads(backend.to_str())["model"]["merges"]
    return sorted(vocabulary, key=vocabulary.get), [tuple(merge) for merge in merges]


class Kind(NamedTuple):
    """A tokenizer of transformers.

    Attributes:
        pre: llama.cpp's name.
        make: it, of tokens and merges.
        specials: control tokens.
        added: user-defined ones.
        published: the classes of tokenizer and model that Hugging Face directories name.
    """

    pre: str
    make: Callable
    published: tuple[str, str]
    specials: tuple[str, ...] = ("<|end|>",)
    added: tuple[str, ...] = ()


def with_pattern(pattern):
    def make(tokens, merges):
        found = _qwen(tokens, merges)
        cut = pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        found.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, bytes_])
        found.backend_tokenizer.normalizer = None
        return found

    return make


def _qwen(tokens, merges):
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return transformers.Qwen2Tokenizer(
        vocab=vocabulary, merges=merges, unk_token=None, eos_token=None, pad_token=None
    )


def _digits(tokens, merges):
    """GPT-2's tokenizer after each digit is cut off, by llama.cpp's expression for it."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    found = transformers.GPT2Tokenizer(
        vocab=vocabulary, merges=merges, unk_token=None, bos_token=None, eos_token=None
    )
    digits = pre_tokenizers.Split(tokenizers.Regex(r"\p{N}"), behavior="isolated")
    found.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, found.backend_tokenizer.pre_tokenizer]
    )
    return found


_LLAMA_3 = TikTokenConverter("none").pattern
KINDS = {
    "llama 3": Kind("llama-bpe", with_pattern(_LLAMA_3), ("PreTrainedTokenizerFast", "llama")),
    "smollm3": Kind(
        "smaug-bpe",
        with_pattern(_LLAMA_3),
        ("PreTrainedTokenizerFast", "smollm3"),
        added=("<think>", "</think>"),
    ),
    "olmo 2": Kind("dbrx", with_pattern(_LLAMA_3), ("GPT2Tokenizer", "olmo2")),
    "phi 4 mini": Kind(
        "gpt-4o", with_pattern(GGUF_PRE_TOKENIZER_SPLITS["gpt-4o"]), ("GPT2Tokenizer", "phi3")
    ),
    "mistral nemo": Kind(
        "tekken",
        with_pattern(GGUF_PRE_TOKENIZER_SPLITS["tekken"]),
        ("PreTrainedTokenizerFast", "mistral"),
    ),
    "qwen 2": Kind(
        "qwen2",
        _qwen,
        ("Qwen2Tokenizer", "qwen2"),
        ("<|im_start|>", "<|im_end|>"),
        ("<tool_call>",),
    ),
    "deepseek": Kind(
        "deepseek-r1-qwen",
        _qwen,
        ("LlamaTokenizerFast", "qwen2"),
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
    ),
    "granite": Kind(
        "refact", _digits, ("GPT2Tokenizer", "granite"), ("<|end_of_text|>", "<|start_of_role|>")
    ),
    "smollm": Kind("smollm", _digits, ("PreTrainedTokenizerFast", "llama")),
}


def theirs_of(kind):
    """The tokenizer of transformers."""
    found = kind.make(*byte_level())
    found.add_special_tokens({"additional_special_tokens": list(kind.specials)})
    found.add_tokens([AddedToken(token, normalized=False) for token in kind.added])
    return found


def write_bpe(writer, tokenizer, pre, bos=None):
    """The metadata of a byte-level tokenizer."""
    backend = tokenizer.backend_tokenizer
    merges = json.loads(backend.to_str())["model"]["merges"]
    added = {id_: token.special for id_, token in backend.get_added_tokens_decoder().items()}
    tokens = [backend.id_to_token(id_) for id_ in range(backend.get_vocab_size())]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(
        [{None: 1, True: 3, False: 4}[added.get(id_)] for id_ in range(len(tokens))]
    )
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_add_bos_token(bos is not None)
    if bos is not None:
        writer.add_bos_token_id(backend.token_to_id(bos))


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def save_hf(theirs, published, directory, end, **more):
    """A directory with the tokenizer as it is published."""
    backend = theirs.backend_tokenizer
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(directory)
    file = directory / "tokenizer_config.json"
    ids = {"bos_token": end, "eos_token": end, "pad_token": end, "unk_token": None}
    config = json.loads(file.read_text()) | {"tokenizer_class": published[0]} | ids | more
    file.write_text(json.dumps(config))
    config = {"model_type": published[1], "vocab_size": len(theirs)}
    config |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def texts(kind):
    marks = [*kind.specials, *kind.added]
    yield from TEXTS
    yield "".join(f"{mark}user\nHi {mark} there\n\n" for mark in marks)
