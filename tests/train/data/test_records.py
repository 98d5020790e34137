import gzip
import json
import os

import datasets
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
    (tmp_path / "r.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"r.pkl is of no kind that is read: .json, .jsonl, .csv"):
        records.load(str(tmp_path / "r.pkl"))
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


def test_a_bad_record_is_named_with_its_line(tmp_path):
    rows = [*RECORDS[:4], {**RECORDS[4], "output": " "}]
    with pytest.raises(ValueError, match=r"record 4 of .*r\.jsonl \(line 5\) has no text in field"):
        records.load(write(tmp_path / "r.jsonl", rows))
    (tmp_path / "r.json").write_text(json.dumps([RECORDS[0], None], indent=1))
    with pytest.raises(ValueError, match=r"record 1 of .*r\.json \(line 6\) is null, but must be"):
        records.load(str(tmp_path / "r.json"))
    with pytest.raises(ValueError, match=r"record 4 of .*\[3:\] \(line 5\) has no text in field"):
        records.load(str(tmp_path / "r.jsonl") + "[3:]")
    assert len(records.load(str(tmp_path / "r.jsonl") + "[:4]")) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"null", r"record 0 of .* \(line 1\) is null, but must be an object with fields"),
        (b"[3]", r"record 0 of .* \(line 1\) is 3, but must be"),
        (b"", "r.json holds no list of JSON records: it has none"),
        (b'{"instruction": "a", "output": "\\ud83d"}', r"\(line 1\) has half a character.*U\+D83D"),
        (b'{"instruction": "a", "output": "\xe9"}', "r.json is not UTF-8"),
    ],
)
def test_a_file_of_another_content_is_one_error(tmp_path, content, message):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        records.load(str(tmp_path / "r.json"))


def test_a_rewritten_file_of_the_same_size_and_time_is_read_again(tmp_path):
    path = write(tmp_path / "r.json", RECORDS)
    first, time = records.read(path), os.stat(path)
    write(tmp_path / "r.json", [{**RECORDS[0], "output": "answer x"}, *RECORDS[1:]])
    os.utime(path, ns=(time.st_atime_ns, time.st_mtime_ns))
    assert os.stat(path).st_size == time.st_size
    second = records.read(path)
    assert second.records["output"][0] == "answer x"
    assert first.records["output"][0] == "answer 0"
    assert second.identity != first.identity
    (tmp_path / "hub").mkdir()
    for answer in ("answer y", "answer z"):  # a directory is read through datasets and its cache
        write(tmp_path / "hub" / "train.json", [{**RECORDS[0], "output": answer}])
        os.utime(tmp_path / "hub" / "train.json", ns=(time.st_atime_ns, time.st_mtime_ns))
        assert records.load(f"hub:{tmp_path / 'hub'}")["output"][0] == answer


def test_the_identity_is_of_the_fields_that_are_used(tmp_path):
    def identity(name, rows):
        return records.read(write(tmp_path / name, rows)).identity

    first = identity("r.json", RECORDS)
    assert identity("a.jsonl.gz", RECORDS) == first
    assert identity("b.json", [{**row, "input": "", "id": 3} for row in RECORDS]) == first
    assert identity("c.json", [{**row, "input": "x"} for row in RECORDS]) != first
    assert identity("d.json", RECORDS[::-1]) != first
    assert identity("e.json", RECORDS[:-1]) != first
    assert len(first) == 16


def test_sources_and_identities_go_by_the_fields_that_name_them(tmp_path):
    paths = [write(tmp_path / "t.json", RECORDS), write(tmp_path / "v.json", RECORDS[:2])]
    both = records.sources(DataConfig(path=paths[0], validation_path=paths[1]))
    assert [len(part) for part in records.split(DataConfig(*paths), both)] == [10, 2]
    found = records.identities(both)
    assert found == {
        "config.data.path": records.read(paths[0]).identity,
        "config.data.validation_path": records.read(paths[1]).identity,
    }
    assert len(set(found.values())) == 2
    assert records.sources(DataConfig(paths[0])).keys() == {"config.data.path"}


def test_a_source_says_what_it_was_taken_for(tmp_path):
    rows = [{**row, "input": "", "answer": "a", "task": 3} for row in RECORDS]
    path = write(tmp_path / "r.json", rows)
    source = records.read(path)
    assert source.unused == ("answer", "task")
    assert source.describe() == (
        f"{path}: 10 records of kind alpaca (instruction, input, output); not used: answer, task"
    )
    assert records.read(path, answered=False).unused == ("task",)
    many = write(tmp_path / "m.json", [{**row, f"f{i:02}": 1} for i, row in enumerate(RECORDS * 3)])
    assert records.read(many).describe().endswith("f18, f19, and 10 more")
    assert records.read(write(tmp_path / "s.json", RECORDS)).describe().endswith("output)")


def test_an_input_is_read(tmp_path):
    read = records.load(write(tmp_path / "r.json", [{**RECORDS[0], "input": "given"}, RECORDS[1]]))
    assert list(read["input"]) == ["given", None]
    with pytest.raises(ValueError, match=r"record 0 of .* has something in field 'system'"):
        records.load(write(tmp_path / "s.json", [{**RECORDS[0], "system": "be brief"}]))


def test_the_split_is_that_of_datasets(tmp_path):
    """Runs of before go on with the same order."""
    path = write(tmp_path / "r.json", RECORDS)
    train, valid = records.split(DataConfig(path=path, validation_rows=3, split_seed=58))
    expected = datasets.Dataset.from_list(RECORDS).shuffle(seed=58)
    assert [*train["output"], *valid["output"]] == list(expected["output"])


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
