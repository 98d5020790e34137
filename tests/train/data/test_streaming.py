"""Streamed records give the batches of those in memory, from any position on."""

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.train.data.words import Words
from train import data
from train.config import DataConfig
from train.data import records
from train.data.reading import Reader
from train.data.stored import StoredExamples
from train.data.streams import StreamedRecords

COUNT = 57
WRONG = {3, 17, 40}
"""Rows without a completion, where bad rows are to be left out."""


def rows(bad=False):
    draw = random.Random(0)
    texts = [
        {name: " ".join("x" * draw.randint(1, 9) for _ in range(draw.randint(1, 12)))
         for name in ("prompt", "completion")}
        for _ in range(COUNT)
    ]  # fmt: skip
    return [
        {**row, "completion": ""} if bad and number in WRONG else row
        for number, row in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("records")
    found = rows()
    instructions = [{"instruction": r["prompt"], "output": r["completion"]} for r in found]
    written = {"r.jsonl": found, "bad.jsonl": rows(bad=True), "hira.jsonl": instructions}
    for name, each in written.items():
        (place / name).write_text("\n".join(map(json.dumps, each)))
    (place / "r.json").write_text(json.dumps(found))
    pq.write_table(pa.Table.from_pylist(found), place / "r.parquet", row_group_size=10)
    return place


CASES = {
    "jsonl": ("r.jsonl", {}),
    "parquet": ("r.parquet", {}),
    "a list, packed": ("r.json", {"packed_length": 48}),
    "two files and a slice": ("r.jsonl,r.parquet[5:20]", {"validation_rows": 9}),
    "bad rows, cut": ("bad.jsonl", {"skip_bad_rows": True, "max_tokens": 9}),
    "held-out file": ("r.jsonl", {"validation_path": "r.parquet[:7]"}),
    "a named template, packed": (
        "hira.jsonl",
        {"prompt": "hira", "packed_length": 64, "max_prompt": 8, "max_response": 5},
    ),
}


def prepared(files, name, **changed):
    path, fields = CASES[name]
    at = {"validation_path": None, **fields}
    if at["validation_path"]:
        at["validation_path"] = str(files / at["validation_path"])
    path = ",".join(str(files / part) for part in path.split(","))
    given = {"prompt": "plain", "allow_cut_responses": True, **at, **changed}
    config = DataConfig(path, **given)
    sources = records.sources(config)
    found = data.prepare(config, Words(), sources)
    return config, records.identities(sources), found


def batches(examples, config, position=0, count=24):
    stream = data.DataIterator(examples, 4, 7, config, position)
    found = []
    for _ in range(count):
        batch = next(stream)
        found.append([stream.position, *(array for array in batch if array is not None)])
    return found


def equal(a, b):
    return all(map(np.array_equal, *([x for each in found for x in each] for found in (a, b))))


@pytest.mark.parametrize("name", CASES)
def test_streamed_epochs_are_those_in_memory_from_any_position_on(files, name):
    config, identities, loaded = prepared(files, name)
    streaming, same, streamed = prepared(files, name, streaming=True)
    assert same == identities
    assert streamed.lines == loaded.lines
    for a, b in ((loaded.train, streamed.train), (loaded.held_out, streamed.held_out)):
        assert isinstance(b, StoredExamples)
        assert data.digest(a) == data.digest(b)
        assert a.cuts == b.cuts
        for of_a, of_b in ((a, b), (a.after((90, 91)), b.after((90, 91)))):
            assert of_a[:] == of_b[:]
            assert all(map(np.array_equal, of_a.lengths(), of_b.lengths()))
            assert np.array_equal(of_a.first_masks(), of_b.first_masks())
    expected = batches(loaded.train, config)
    assert equal(batches(streamed.train, streaming), expected)
    # In the middle of the second epoch.
    start = next(row[0] for row in expected if row[0] > 1.4 * len(loaded.train))
    again = batches(streamed.train, streaming, start, 5)
    place = [row[0] for row in expected].index(start) + 1
    assert equal(again, expected[place : place + 5])
    assert not equal(again, expected[place - 1 : place + 4])
    _, _, other = prepared(files, name, streaming=True, split_seed=1)
    if config.validation_path is None:
        assert data.digest(other.train) != data.digest(streamed.train)


def test_of_what_is_left_out_none_is_fed(files):
    _, _, found = prepared(files, "bad rows, cut", streaming=True)
    assert len(found.train) + len(found.held_out) == COUNT - len(WRONG)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(map(json.dumps, rows())))
    source = records.read(str(path), "plain", streaming=True)
    path.write_text("\n".join(map(json.dumps, rows()[::-1])))
    with pytest.raises(ValueError, match=r"r\.jsonl changed while it was read"):
        data.tokenize(source.records, Words(), DataConfig("-", prompt="plain"))


def test_only_a_chunk_of_records_is_held_at_once(tmp_path, monkeypatch):
    """Neither rows nor records are kept from one to the next."""
    monkeypatch.setattr("train.data.reading._CHUNK", 8)
    monkeypatch.setattr("train.data.tokens._CONVERSATIONS", 8)
    live = {"now": 0, "most": 0}

    class Counted(dict):
        def __init__(self, *args):
            super().__init__(*args)
            live["now"] += 1
            live["most"] = max(live.values())

        def __del__(self):
            live["now"] -= 1

    used = Reader._used
    monkeypatch.setattr(Reader, "_used", lambda *args: Counted(used(*args)))
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(map(json.dumps, 9 * rows())))
    source = records.read(str(path), "plain", streaming=True)
    assert isinstance(source.records, StreamedRecords)
    data.tokenize(source.records, Words(), DataConfig("-", prompt="plain"))
    assert live["now"] == 0
    assert live["most"] <= 4 * 8
