"""Records as token ids in flat arrays, and what is cut."""

import copy

import datasets
import numpy as np
import pytest

from tera_jax.llama import load_tokenizer
from tests.train.data.words import Words
from train import data, tasks
from train.config import DataConfig
from train.data import Example, examples, tokens
from train.data.examples import Cuts

RECORDS = [
    {"instruction": "Is the sky blue?", "input": "", "output": "yes"},
    {"instruction": "Translate to French.", "input": "the red cat", "output": "le chat rouge"},
    {"instruction": "Count.\n", "output": "one two three four five six"},
]


@pytest.fixture(scope="module")
def tokenizer(smollm2_path):
    return load_tokenizer(smollm2_path)


@pytest.mark.parametrize("style", ["hira", "llm-adapters"])
def test_ids_are_those_of_each_text_alone_whatever_the_chunk(tokenizer, monkeypatch, style):
    config = DataConfig(path="x", prompt=style, append_eos=True, max_response=32)
    monkeypatch.setattr(tokens, "_CHUNK", 2)
    found = data.tokenize(RECORDS, tokenizer, config)
    for record, example in zip(RECORDS, found, strict=True):
        prompt = tokenizer(tasks.prompt(record, style), add_special_tokens=False)["input_ids"]
        response = tokenizer(record["output"], add_special_tokens=False)["input_ids"]
        assert example == Example.of(prompt, [*response, tokenizer.eos_token_id])
    asked = data.encode_prompts(RECORDS, tokenizer, config)
    assert asked == [example.prompt for example in found]
    columns = datasets.Dataset.from_list(RECORDS)
    assert list(data.tokenize(columns, tokenizer, config)) == list(found)
    # Without an input the ids are what they were before inputs were read.
    bare = [{**row, "input": ""} for row in RECORDS]
    assert data.encode_prompts(bare, tokenizer, config)[0] == asked[0]
    assert data.encode_prompts(bare, tokenizer, config)[1] != asked[1]
    assert "### Input:\n" in tokenizer.decode(asked[1])


def test_padding_and_truncation_of_a_tokenizer_do_not_cut(tokenizer):
    config = DataConfig(path="x", max_response=32)
    expected = list(data.tokenize(RECORDS, tokenizer, config))
    changed = copy.deepcopy(tokenizer)
    changed.backend_tokenizer.enable_truncation(4)
    changed.backend_tokenizer.enable_padding(length=64)
    assert list(data.tokenize(RECORDS, changed, config)) == expected


def test_a_tokenizer_with_a_call_of_its_own_is_called(tokenizer):
    class Shouting(type(tokenizer)):
        def __call__(self, text, **options):
            return super().__call__([line.upper() for line in text], **options)

    changed = copy.deepcopy(tokenizer)
    changed.__class__ = Shouting
    (example, *_) = data.tokenize(RECORDS, changed, DataConfig(path="x"))
    assert tokenizer.decode(example.response) == "YES"


def cuts(config, records=RECORDS):
    return data.tokenize(records, Words(), config).cuts


def test_what_is_cut_is_counted():
    lengths = [len(tasks.prompt(record, "hira").split()) for record in RECORDS]
    longest = max(lengths)
    whole = Cuts(3, 0, 0, 6, max(n + r for n, r in zip(lengths, (1, 3, 6), strict=True)))
    assert cuts(DataConfig(path="x", max_prompt=longest)) == whole
    assert cuts(DataConfig(path="x", max_prompt=longest - 1)).prompts == 1
    assert cuts(DataConfig(path="x", max_prompt=longest, bos="always")).prompts == 1
    assert cuts(DataConfig(path="x", max_response=5)).responses == 1
    assert cuts(DataConfig(path="x", max_response=2)).responses == 2
    # An EOS token that does not fit is a cut: the end is not learned.
    assert cuts(DataConfig(path="x", max_response=6)).responses == 0
    ended = cuts(DataConfig(path="x", max_response=6, append_eos=True))
    assert ended.responses == 1
    assert ended.longest_response == 7
    limited = DataConfig(path="x", max_tokens=whole.longest_row)
    assert cuts(limited) == whole
    limited = DataConfig(path="x", max_tokens=whole.longest_row - 1)
    assert cuts(limited).responses == 1
    assert cuts(limited).longest_row == whole.longest_row
    limited = DataConfig(path="x", max_tokens=min(lengths) - 1)
    assert cuts(limited)[:3] == (3, 3, 3)


def test_examples_are_a_sequence():
    found = data.tokenize(RECORDS, Words(), DataConfig(path="x"))
    assert len(found) == 3
    assert found[-1].response == [3, 3, 5, 4, 4, 3]
    assert found[1:] == [found[1], found[2]]
    assert [example.response for example in found] == [[3], [2, 4, 5], [3, 3, 5, 4, 4, 3]]
    with pytest.raises(IndexError):
        found[3]
    assert len(data.tokenize([], Words(), DataConfig(path="x"))) == 0


def test_virtual_tokens_are_put_before_prompts_and_count():
    config = DataConfig(path="x", train_on_prompt=True)
    plain = data.tokenize(RECORDS, Words(), config)
    virtual = plain.after((90, 91))
    assert list(virtual) == list(data.tokenize(RECORDS, Words(), config, (90, 91)))
    assert virtual[0].prompt == [90, 91, *plain[0].prompt]
    assert plain[0].prompt[0] != 90
    for one, count in ((plain, 0), (virtual, 2)):
        flat, listed = (examples.num_targets(x, config, count) for x in (one, list(one)))
        np.testing.assert_array_equal(flat, listed)
    assert data.measure(virtual, config, 2) == data.measure(list(virtual), config, 2)


def test_a_digest_changes_with_any_id():
    rows = [Example.of([1, 2], [3]), Example.of([4], [5, 6])]
    first = data.digest(rows)
    assert data.digest(copy.deepcopy(rows)) == first
    others = [
        rows[::-1],
        rows[:1],
        [Example.of([1, 2, 3], []), rows[1]],
        [Example.of([1, 2], [7]), rows[1]],
        [Example([1, 2, 3], [0, 1, 0]), rows[1]],
        [Example([1, 2, 3], [1, 0, 0]), rows[1]],
    ]
    assert len({first, *map(data.digest, others)}) == 7
