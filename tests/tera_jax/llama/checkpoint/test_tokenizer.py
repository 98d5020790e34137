import json
import subprocess
import sys
import unicodedata

import gguf
import numpy as np
import pytest
import tokenizers
import transformers

from tera_jax.llama import load_tokenizer

TEXTS = [
    "Hello world",
    "  two  spaces, a tab\tand\n\nnew lines \n",
    "It's 1234567 and 3.14; we'll see, I'd say they've DON'T",
    "Grüße, naïve café — 東京 は 雨 🙂🏽 \u200b\u0301e\u0301",
    "def f(x):\n    return x**2  # comment\r\n",
    "<|im_start|>user\nWho are you?<|im_end|>\n<|endoftext|>a",
    "",
    " ",
]


def _write(path, tokens, merges=None, scores=None, types=None, **fields):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(tokens)
    writer.add_token_types(types or [1] * len(tokens))
    if merges is not None:
        writer.add_token_merges([" ".join(pair) for pair in merges])
    if scores is not None:
        writer.add_token_scores(scores)
    for key, value in fields.items():
        {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32}[type(value)](
            f"tokenizer.ggml.{key}", value
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def byte_level():
    """A small byte-level vocabulary: ``(tokens, merges)``, special tokens last."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    vocabulary = backend.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    merges = json.loads(backend.to_str())["model"]["merges"]
    specials = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    return [*tokens, *specials], merges, [1] * len(tokens) + [3, 3, 3]


def _theirs(path):
    return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.fixture(scope="module")
def smollm2(smollm2_path):
    return load_tokenizer(smollm2_path), _theirs(smollm2_path)


@pytest.mark.long
@pytest.mark.smollm2
def test_smollm2_equals_transformers(smollm2):
    ours, theirs = smollm2
    for text in TEXTS:
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"], text
        assert ours.decode(ids) == text
    assert ours("Hello")["input_ids"] != theirs("hello")["input_ids"]
    for name in ("bos", "eos", "unk", "pad"):
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
    chat = [{"role": "user", "content": "Hi"}]
    rendered = ours.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert ours("<|im_start|>")["input_ids"] == [1]
    assert ours.decode([1, 19556, 2], skip_special_tokens=True) == "Hello"


@pytest.mark.smollm2
def test_smollm2_digits_stand_alone_even_after_spaces(smollm2):
    # The published tokenizer.json splits digits off first. transformers' GGUF reader does not know
    # the pre-tokenizer "smollm" and takes GPT-2's, which merges the space with a digit's.
    ours, theirs = smollm2
    assert ours.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert theirs.tokenize("a  12") != ["a", "ĠĠ", "1", "2"]


@pytest.mark.smollm2
def test_torch_is_not_needed(smollm2_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from tera_jax.llama import load_tokenizer\n"
        "print(load_tokenizer(sys.argv[1])('Hello')['input_ids'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(smollm2_path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[19556]"


def test_a_saved_tokenizer_loads_from_its_directory(byte_level, tmp_path):
    tokens, merges, types = byte_level
    path = _write(
        tmp_path / "x.gguf", tokens, merges, None, types, model="gpt2", pre="qwen2", eos_token_id=3
    )
    ours = load_tokenizer(path)
    ours.save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "qwen2"}')
    again = load_tokenizer(tmp_path / "hf")
    for text in TEXTS:
        assert again(text)["input_ids"] == ours(text)["input_ids"]
    assert again.eos_token_id == 3


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2"])
def test_byte_level_equals_transformers(pre, byte_level, tmp_path):
    tokens, merges, types = byte_level
    bos = len(tokens) - 1
    fields = {"model": "gpt2", "pre": pre, "bos_token_id": bos, "add_bos_token": False}
    path = _write(tmp_path / "x.gguf", tokens, merges, None, types, **fields)
    ours, theirs = load_tokenizer(path), _theirs(path)
    for text in TEXTS:
        if pre == "qwen2" and "\u0301" in text:
            # Qwen's own tokenizer.json composes accents first (NFC); GGUF readers forget it.
            text = unicodedata.normalize("NFC", text)
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
        assert ours.decode(ours(text)["input_ids"]) == text
    assert ours("a 123")["input_ids"] != ours("a 124")["input_ids"]
    digits = [piece.replace("Ġ", "") for piece in ours.tokenize("x1234567")]
    assert max(map(len, digits)) <= (3 if pre == "llama-bpe" else 1)


def test_llama3_puts_bos_first_unless_the_file_says_otherwise(byte_level, tmp_path):
    tokens, merges, types = byte_level
    bos = len(tokens) - 1
    fields = {"model": "gpt2", "bos_token_id": bos}
    for name, pre, starts in (("a", "llama-bpe", True), ("b", "qwen2", False)):
        path = _write(tmp_path / f"{name}.gguf", tokens, merges, None, types, **fields, pre=pre)
        assert (load_tokenizer(path)("Hello")["input_ids"][0] == bos) == starts
    fields |= {"add_bos_token": False, "pre": "llama-bpe"}
    path = _write(tmp_path / "c.gguf", tokens, merges, None, types, **fields)
    assert load_tokenizer(path)("Hello")["input_ids"][0] != bos


def test_llama3_takes_whole_words_from_the_vocabulary(byte_level, tmp_path):
    tokens, merges, types = byte_level
    tokens, types = [*tokens, "zqzqzq"], [*types, 1]
    for pre, pieces in (("llama-bpe", 1), ("qwen2", 6)):
        path = _write(tmp_path / f"{pre}.gguf", tokens, merges, None, types, model="gpt2", pre=pre)
        assert len(load_tokenizer(path).tokenize("zqzqzq")) == pieces


def test_sentencepiece_equals_transformers(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace("▁", split=True)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=180, show_progress=False)
    backend.train_from_iterator([text.replace("\n", " ") for text in TEXTS[:3]] * 3, trainer)
    learned = sorted(backend.get_vocab(), key=backend.get_vocab().get)
    pieces = [piece for piece in learned if len(piece) > 1] + [p for p in learned if len(p) == 1]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [2, 3, 3, *[6] * 256, *[1] * len(pieces)]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(pieces))]
    fields = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "model": "llama"}
    path = _write(tmp_path / "x.gguf", tokens, None, scores, types, **fields)
    ours, theirs = load_tokenizer(path), _theirs(path)
    # Before a space its converter puts no other one, which sentencepiece does.
    for text in [TEXTS[0], *TEXTS[2:5], "Hello</s> world"]:
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"], text
        assert ids[0] == 1
        assert ours.decode(ids[1:]) == theirs.decode(ids[1:])
    assert ours("Hello world")["input_ids"] != ours("Hello  world")["input_ids"]
    assert ours(" leading")["input_ids"] != theirs(" leading")["input_ids"]
    assert ours.decode(ours("東京")["input_ids"], skip_special_tokens=True) == "東京"
    bare = _write(
        tmp_path / "y.gguf", tokens, None, scores, types, **fields, add_space_prefix=False
    )
    assert load_tokenizer(bare).tokenize("Hello")[0] != ours.tokenize("Hello")[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "t5"}, "tokenizer of kind 't5'; only byte-level BPE"),
        ({"model": "gpt2", "pre": "falcon"}, "'falcon' is not one of llama-bpe, llama3, llama-"),
        ({"model": "gpt2"}, "None is not one of llama-bpe, .*, refact; load the tokenizer"),
    ],
)
def test_refuses(fields, message, tmp_path):
    path = _write(tmp_path / "x.gguf", ["a", "b", "ab"], [("a", "b")], [0.0] * 3, **fields)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(path)


def test_refuses_a_vocabulary_without_its_order(tmp_path):
    for model, order in (("gpt2", "merges"), ("llama", "scores")):
        path = _write(tmp_path / f"{model}.gguf", ["a", "b", "ab"], model=model, pre="smollm")
        with pytest.raises(ValueError, match=f"lacks the {order} of its tokenizer"):
            load_tokenizer(path)


def test_refuses_a_vocabulary_with_repeats(tmp_path):
    path = _write(tmp_path / "x.gguf", ["a", "b", "a"], [("a", "b")], model="gpt2", pre="smollm")
    with pytest.raises(ValueError, match=r"x\.gguf: two tokens of the vocabulary are the same"):
        load_tokenizer(path)


def _directory(path, byte_level, vocab_size=None):
    """A Hugging Face directory with a tokenizer of 403 tokens or so."""
    tokens, merges, types = byte_level
    made = _write(
        path / "x.gguf", tokens, merges, None, types, model="gpt2", pre="qwen2", eos_token_id=3
    )
    load_tokenizer(made).save_pretrained(path / "hf")
    config = {"model_type": "qwen2"} | ({"vocab_size": vocab_size} if vocab_size else {})
    (path / "hf" / "config.json").write_text(json.dumps(config))
    return path / "hf"


def test_token_ids_beyond_the_vocabulary_are_refused_by_both_numbers(byte_level, tmp_path):
    count = len(byte_level[0])
    path = _directory(tmp_path, byte_level, count)
    assert len(load_tokenizer(path)) == count
    (path / "config.json").write_text(json.dumps({"vocab_size": count - 1}))
    message = f"token ids up to {count - 1}, but the model has vocab_size={count - 1}; take the"
    with pytest.raises(ValueError, match=message):
        load_tokenizer(path)


def test_a_gguf_tokenizer_fits_the_embedding_of_its_file(byte_level, tmp_path):
    tokens, merges, types = byte_level
    for rows, fits in ((len(tokens) + 5, True), (len(tokens), True), (len(tokens) - 1, False)):
        writer = gguf.GGUFWriter(tmp_path / "x.gguf", "qwen2")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges([" ".join(pair) for pair in merges])
        writer.add_tensor("token_embd.weight", np.zeros((rows, 2), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        if fits:
            assert len(load_tokenizer(tmp_path / "x.gguf")) == len(tokens)
            continue
        message = f"token ids up to {rows}, but the model has vocab_size={rows}; take the"
        with pytest.raises(ValueError, match=message):
            load_tokenizer(tmp_path / "x.gguf")


@pytest.mark.parametrize("merges", [[("a", "c")], [("b", "a")], [("a", "")]])
def test_merges_of_what_is_no_token_are_refused(merges, tmp_path):
    path = _write(tmp_path / "x.gguf", ["a", "b", "ab"], merges, model="gpt2", pre="qwen2")
    with pytest.raises(ValueError, match=r"merges '.*', whose parts or whole are no tokens; fetch"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", '{"model": ', r"tokenizer.json is not JSON .*; fetch the checkpoint"),
        ("tokenizer.json", "{}", r"has no tokenizer that transformers reads \(.*\); fetch"),
        ("tokenizer.json", '{"a": 1, "a": 2}', "tokenizer.json .*'a' stands twice in an object"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json is not JSON .*top level"),
        ("tokenizer_config.json", '{"a": ' * 99 + "0" + "}" * 99, "more than 64 objects"),
        ("config.json", '{"vocab_size": "3"}', "sets vocab_size to '3', not a whole number"),
    ],
)
def test_broken_files_are_one_clear_error(name, content, message, byte_level, tmp_path):
    path = _directory(tmp_path, byte_level)
    (path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(path)
