import gzip
import json

import pytest

from train.config import DataConfig
from train.data import records


def write(path, rows):
    text = json.dumps(rows)
    if path.name.endswith("l") or path.name.endswith("l.gz"):
        text = "\n".join(map(json.dumps, rows))
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


RECORDS = [{"instruction": f"question {i}", "output": f"answer {i}"} for i in range(10)]


@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.json.gz", "r.jsonl.gz"])
def test_records_are_read_from_every_format(tmp_path, name):
    read = records.load(write(tmp_path / name, RECORDS))
    assert read["instruction"][3] == "question 3"
    assert len(read) == 10


def test_bad_files_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.json does not exist"):
        records.load(str(tmp_path / "none.json"))
    (tmp_path / "r.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"r.csv ends in none of"):
        records.load(str(tmp_path / "r.csv"))
    (tmp_path / "bad.json").write_text("{not json")
    with pytest.raises(ValueError, match=r"bad.json holds no list of JSON records"):
        records.load(str(tmp_path / "bad.json"))
    with pytest.raises(ValueError, match=r"empty.json holds no list of JSON records"):
        records.load(write(tmp_path / "empty.json", []))


@pytest.mark.parametrize("field", ["instruction", "output"])
@pytest.mark.parametrize("value", [None, "", "absent"])
def test_a_record_without_its_fields_is_refused_by_row(tmp_path, field, value):
    rows = [dict(record) for record in RECORDS]
    if value == "absent":
        del rows[7][field]
    else:
        rows[7][field] = value
    with pytest.raises(ValueError, match=f"record 7 of .* has no text in field '{field}'"):
        records.load(write(tmp_path / "r.json", rows))


def test_the_split_holds_out_the_last_rows_of_a_seeded_shuffle(tmp_path):
    path = write(tmp_path / "r.json", RECORDS)
    train, valid = records.split(DataConfig(path=path, validation_rows=3))
    questions = [*train["instruction"], *valid["instruction"]]
    assert len(valid) == 3
    assert sorted(questions) == sorted(record["instruction"] for record in RECORDS)
    again, _ = records.split(DataConfig(path=path, validation_rows=3))
    other, _ = records.split(DataConfig(path=path, validation_rows=3, split_seed=1))
    assert list(again["instruction"]) == list(train["instruction"])
    assert list(other["instruction"]) != list(train["instruction"])
    with pytest.raises(ValueError, match="leaves none to train on"):
        records.split(DataConfig(path=path, validation_rows=10))


@pytest.mark.parametrize(
    ("part", "expected"),
    [("[:3]", [0, 1, 2]), ("[8:]", [8, 9]), ("[4:6]", [4, 5]), ("", range(10))],
)
def test_a_slice_of_a_file_takes_part_of_its_records(tmp_path, part, expected):
    read = records.load(write(tmp_path / "r.json", RECORDS) + part)
    assert list(read["instruction"]) == [f"question {i}" for i in expected]


def test_a_slice_without_records_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"r.json\[10:\] has no records"):
        records.load(write(tmp_path / "r.json", RECORDS) + "[10:]")


DIALOGUES = """\
1 your persona: i ski.
2 partner's persona: i read.
3 hi !\thello .\t\tyes|no
4 hobbies ?\ti ski .
1 your persona: i cook.
2 __SILENCE__\tmorning !
"""


def test_dialogues_are_sliced_whole(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text(DIALOGUES)
    assert list(records.load(str(path), "convai2")["output"]) == ["hello .", "i ski .", "morning !"]
    assert list(records.load(f"{path}[1:]", "convai2")["output"]) == ["morning !"]
    assert list(records.load(f"{path}[:1]", "convai2")["output"]) == ["hello .", "i ski ."]


def test_dialogues_are_no_instructions(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text(DIALOGUES)
    with pytest.raises(ValueError, match=r"record 0 of .* has no text in field 'instruction'"):
        records.load(str(path))
    with pytest.raises(ValueError, match=r"record 0 of .* has no list in field 'persona'"):
        records.load(write(tmp_path / "r.json", RECORDS), "convai2")
    path.write_text("hello\n")
    with pytest.raises(ValueError, match=r"d.txt is not in ParlAI's text format: line 1 does not"):
        records.load(str(path), "convai2")


def test_a_data_set_of_the_hub_is_read_by_its_split(tmp_path):
    """A directory of files stands for one: ``datasets`` reads both by the same call."""
    (tmp_path / "named").mkdir()
    write(tmp_path / "named" / "train.json", RECORDS)
    write(tmp_path / "named" / "test.json", RECORDS[:4])
    assert len(records.load(f"hub:{tmp_path / 'named'}")) == 10
    read = records.load(f"hub:{tmp_path / 'named'}:test[1:3]")
    assert list(read["instruction"]) == ["question 1", "question 2"]
    with pytest.raises(FileNotFoundError, match=r"data set hub:.*:none could not be had"):
        records.load(f"hub:{tmp_path / 'named'}:none")
    with pytest.raises(FileNotFoundError, match=r"data set hub:owner/name could not be had"):
        records.load("hub:owner/name")
