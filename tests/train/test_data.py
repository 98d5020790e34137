import gzip
import json

import numpy as np
import pytest

from train import data
from train.config import DataConfig
from train.data import Example

CONFIG = DataConfig(path="x", max_prompt=6, max_response=3)


class Words:
    """A tokenizer of words; the ids are their lengths."""

    bos_token_id = 1
    eos_token_id = 2

    def __call__(self, text, *, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [[len(word) for word in line.split()] for line in text]}


def write(path, records):
    text = json.dumps(records)
    if path.name.endswith("l") or path.name.endswith("l.gz"):
        text = "\n".join(map(json.dumps, records))
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


RECORDS = [{"instruction": f"question {i}", "output": f"answer {i}"} for i in range(10)]


@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.json.gz", "r.jsonl.gz"])
def test_records_are_read_from_every_format(tmp_path, name):
    records = data.load_records(write(tmp_path / name, RECORDS))
    assert records["instruction"][3] == "question 3"
    assert len(records) == 10


def test_bad_files_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.json does not exist"):
        data.load_records(str(tmp_path / "none.json"))
    (tmp_path / "r.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"r.csv ends in none of"):
        data.load_records(str(tmp_path / "r.csv"))
    (tmp_path / "bad.json").write_text("{not json")
    with pytest.raises(ValueError, match=r"bad.json holds no list of JSON records"):
        data.load_records(str(tmp_path / "bad.json"))
    with pytest.raises(ValueError, match=r"empty.json holds no list of JSON records"):
        data.load_records(write(tmp_path / "empty.json", []))


@pytest.mark.parametrize("field", ["instruction", "output"])
@pytest.mark.parametrize("value", [None, "", "absent"])
def test_a_record_without_its_fields_is_refused_by_row(tmp_path, field, value):
    records = [dict(record) for record in RECORDS]
    if value == "absent":
        del records[7][field]
    else:
        records[7][field] = value
    with pytest.raises(ValueError, match=f"record 7 of .* has no text in field '{field}'"):
        data.load_records(write(tmp_path / "r.json", records))


def test_the_split_holds_out_the_last_rows_of_a_seeded_shuffle(tmp_path):
    path = write(tmp_path / "r.json", RECORDS)
    train, valid = data.split(DataConfig(path=path, validation_rows=3))
    questions = [*train["instruction"], *valid["instruction"]]
    assert len(valid) == 3
    assert sorted(questions) == sorted(record["instruction"] for record in RECORDS)
    again, _ = data.split(DataConfig(path=path, validation_rows=3))
    other, _ = data.split(DataConfig(path=path, validation_rows=3, split_seed=1))
    assert list(again["instruction"]) == list(train["instruction"])
    assert list(other["instruction"]) != list(train["instruction"])
    with pytest.raises(ValueError, match="leaves none to train on"):
        data.split(DataConfig(path=path, validation_rows=10))


def test_prompts_lose_their_beginning_and_responses_their_end():
    config = DataConfig(path="x", max_prompt=4, max_response=2, bos="always", append_eos=True)
    records = {"instruction": ["aa bbb"], "output": ["c dd eee"]}
    (example,) = data.tokenize(records, Words(), config)
    assert example.prompt == [1, 3, 3, len("Response:")]  # "... aa bbb ### Response:"
    assert example.response == [1, 2]
    config = DataConfig(path="x", max_prompt=4, max_response=4, append_eos=True)
    (example,) = data.tokenize(records, Words(), config)
    assert example.response == [1, 2, 3, 2]
    assert example.prompt == [2, 3, 3, len("Response:")]


def test_the_loss_reads_the_state_before_each_response_token():
    batch = data.collate([Example([5, 6, 7], [8, 9]), Example([4], [3, 2, 1])], CONFIG)
    assert batch.tokens_BL.tolist() == [[5, 6, 7, 8, 9, 0, 0, 0, 0], [4, 3, 2, 1, 0, 0, 0, 0, 0]]
    assert batch.index_BT.tolist() == [[2, 3, 0], [0, 1, 2]]
    assert batch.target_BT.tolist() == [[8, 9, 0], [3, 2, 1]]
    assert batch.weight_BT.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert data.num_tokens(batch) == 5 + 4


def test_the_loss_may_be_on_the_prompt_too():
    config = DataConfig(path="x", max_prompt=3, max_response=2, loss_on="prompt")
    batch = data.collate([Example([5, 6, 7], [8])], config)
    assert batch.index_BT.tolist() == [[0, 1, 2, 0]]
    assert batch.target_BT.tolist() == [[6, 7, 8, 0]]
    assert batch.weight_BT.tolist() == [[1, 1, 1, 0]]


def stream(seed=0, position=0, examples=10):
    rows = [Example([i + 1], [i + 1]) for i in range(examples)]
    return data.Stream(rows, 4, seed, CONFIG, position)


def firsts(batch):
    return batch.tokens_BL[:, 0].tolist()


def test_every_example_comes_once_an_epoch_in_a_new_order():
    feed = stream()
    seen = [row for _ in range(5) for row in firsts(next(feed))]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(1, 11))
    assert seen[:10] != seen[10:]
    assert seen[:4] != firsts(next(stream(seed=1)))


def test_a_stream_goes_on_from_its_position():
    feed = stream()
    for _ in range(4):
        next(feed)
    resumed = stream(position=feed.position)
    assert firsts(next(resumed)) == firsts(next(feed))
    assert firsts(next(stream())) != firsts(next(stream(position=4)))


def test_steps_cover_the_epochs():
    assert data.num_steps(10, 4, 1.0) == 3
    assert data.num_steps(10, 4, 2.0) == 5


def test_the_last_held_out_batch_is_filled_with_rows_of_no_weight():
    rows = [Example([i + 1], [i + 1]) for i in range(6)]
    batches = list(data.held_out(rows, 4, CONFIG))
    assert [batch.tokens_BL.shape for batch in batches] == [(4, 9), (4, 9)]
    assert np.sum([batch.weight_BT.sum() for batch in batches]) == 6
