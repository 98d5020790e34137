"""The same records out of every container, slices and globs, and one error for what is none."""

import csv
import gzip
import itertools
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from train.data import containers, records

ROWS = [{"prompt": f"question {i}, é", "completion": f'an "answer"\n{i}'} for i in range(10)]
CHATS = [
    {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]}
    for i in range(10)
]


def _json(path, rows):
    path.write_text(json.dumps(rows, indent=1))


def _under_key(path, rows):
    path.write_text(json.dumps({"version": "1.0", "data": rows}, indent=1))


def _under_key_first(path, rows):
    path.write_text(json.dumps({"rows": rows, "count": 10}))


def _lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _gz(write):
    def written(path, rows):
        write(path, rows)
        path.write_bytes(gzip.compress(path.read_bytes()))

    return written


def _table(delimiter):
    def written(path, rows):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
            writer.writeheader()
            texts = [
                {k: v if isinstance(v, str) else json.dumps(v) for k, v in r.items()} for r in rows
            ]
            writer.writerows(texts)

    return written


def _parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)


def _saved(path, rows):
    datasets.Dataset.from_list(rows).save_to_disk(path)


def _saved_splits(path, rows):
    parts = {"test": rows[:2], "train": rows}
    datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in parts.items()}).save_to_disk(
        path
    )


WRITERS = {
    "r.json": _json,
    "under.json": _under_key,
    "first.json": _under_key_first,
    "r.jsonl": _lines,
    "lines.json": _lines,
    "r.json.gz": _gz(_json),
    "r.jsonl.gz": _gz(_lines),
    "under.json.gz": _gz(_under_key),
    "r.csv": _table(","),
    "r.tsv": _table("\t"),
    "r.csv.gz": _gz(_table(",")),
    "r.parquet": _parquet,
    "parquet.data": _parquet,
    "lines.data": _lines,
    "list.txt": _json,
    "packed.data": _gz(_lines),
    "saved": _saved,
    "splits": _saved_splits,
}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    datasets.disable_progress_bars()


@pytest.mark.parametrize("rows", [ROWS, CHATS])
@pytest.mark.parametrize("name", WRITERS)
def test_every_container_has_the_same_records(tmp_path, name, rows):
    WRITERS[name](tmp_path / name, rows)
    expected = records.of_rows(rows)
    found = records.read(str(tmp_path / name), "auto")
    assert found.identity == expected.identity
    assert found.records[:] == expected.records[:]
    assert found.format == ("messages" if rows is CHATS else "prompt/completion")
    assert found.records[:] != records.of_rows(rows[::-1]).records[:]
    last = records.read(f"{tmp_path / name}[-3:]", "auto")
    assert last.records[:] == records.read(f"{tmp_path / name}[7:]", "auto").records[:]
    assert len(last.records) == 3


ENDS = [None, 0, 1, 4, 9, 10, 12, -1, -4, -9, -10, -12]


def test_slices_are_those_of_a_list():
    items = [containers.Row(number, None, {}) for number in range(10)]
    for start, stop in itertools.product(ENDS, ENDS):
        found = [*containers.paths.sliced(iter(items), start, stop)]
        assert found == items[start:stop]


def test_a_negative_slice_is_one_of_a_path(tmp_path):
    _lines(tmp_path / "r.jsonl", ROWS)
    for part, expected in (("[-2:]", ROWS[-2:]), ("[:-7]", ROWS[:-7]), ("[-4:-2]", ROWS[-4:-2])):
        found = records.load(f"{tmp_path / 'r.jsonl'}{part}", "auto")
        assert found["prompt"][:] == [row["prompt"] for row in expected]
    assert records.read(f"{tmp_path / 'r.jsonl'}[-1:]", "auto").records["row"][:] == [9]


def test_several_files_are_read_one_after_the_other(tmp_path):
    for number, name in enumerate(("b.jsonl", "a.jsonl", "c.json")):
        _lines(tmp_path / name, ROWS[3 * number : 3 * number + 3])
    b, a, c = ROWS[:3], ROWS[3:6], ROWS[6:9]
    globbed = records.read(f"{tmp_path}/*.jsonl", "auto")
    assert globbed.records["prompt"][:] == [row["prompt"] for row in (*a, *b)]
    assert f"6 records of 2 files ({tmp_path}/a.jsonl, {tmp_path}/b.jsonl) of" in globbed.describe()
    listed = records.read(
        f"{tmp_path}/b.jsonl[1:], {tmp_path}/c.json,{tmp_path}/[a].jsonl[-1:]", "auto"
    )
    assert listed.records["prompt"][:] == [row["prompt"] for row in (*b[1:], *c, a[-1])]
    assert listed.place(listed.records["row"][1]) == f"record 2 of {tmp_path}/b.jsonl[1:]"
    assert listed.place(listed.records["row"][2]) == f"record 0 of {tmp_path}/c.json"
    with pytest.raises(FileNotFoundError, match=r"no data file matches .*/\*.csv; check"):
        records.read(f"{tmp_path}/*.csv", "auto")
    _lines(tmp_path / "a,b[1].jsonl", c)
    assert len(records.load(f"{tmp_path}/a,b[1].jsonl", "auto")) == 3
    (tmp_path / "c.json").write_text('{"text": "x"}')
    with pytest.raises(
        ValueError, match=r"record 0 of .*c.json \(line 1\) is of kind text, but those"
    ):
        records.read(f"{tmp_path}/a.jsonl,{tmp_path}/c.json", "auto")


def test_a_line_may_be_an_object_with_a_list(tmp_path):
    """In which a file of JSON with a list under a key is told from lines."""
    for name in ("r.jsonl", "r.json"):
        path = tmp_path / name
        path.write_text("\n".join(json.dumps({"id": 1, "turns": row["messages"]}) for row in CHATS))
        assert len([*containers.rows(str(path))]) == 10
    (tmp_path / "one.jsonl").write_text(json.dumps({"turns": CHATS[0]["messages"]}))
    assert len([*containers.rows(str(tmp_path / "one.jsonl"))]) == 1
    (tmp_path / "one.json").write_text(json.dumps(CHATS[0]))
    assert [row.value for row in containers.rows(str(tmp_path / "one.json"))] == CHATS[:1]
    (tmp_path / "two.json").write_text(json.dumps({"a": ROWS, "b": ROWS}))
    with pytest.raises(ValueError, match=r"two.json .*more than numbers and texts stand beside"):
        records.read(str(tmp_path / "two.json"), "auto")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.pkl", b"\x80\x04K\x01.", "r.pkl is of no kind that is read: .json, .jsonl, .csv and"),
        ("r.zip", b"PK\x03\x04", "r.zip is of no kind that is read"),
        ("r.md", b"# Title", "r.md is of no kind that is read"),
        ("r.csv", b"prompt,completion\na,b\nc\n", "r.csv has 1 fields in line 3, but 2 columns"),
        ("r.csv", b'prompt,completion\n"a\nb",c\nd,e,f\n', "r.csv has 3 fields in line 4, but 2"),
        ("r.tsv", b"prompt\tcompletion\na,b\n", "r.tsv has 1 fields in line 2, but 2 columns"),
        ("r.csv", b'prompt,completion\na,"b', "r.csv is no table: line 2: unexpected end of data"),
        ("r.csv", b"prompt,prompt\na,b\n", "r.csv names the column 'prompt' twice"),
        ("r.csv", b"", "r.csv has no row of column names"),
        ("r.csv", b"prompt,completion\n", "r.csv has no records"),
        ("r.csv", b"prompt,completion\na,\xe9\n", "r.csv is not UTF-8: line 2 has the byte 0xe9"),
        ("r.csv.gz", b"prompt,completion", "r.csv.gz is no whole gzip file"),
        ("r.parquet", b"PAR1 and nothing", "r.parquet is no whole parquet file"),
        ("r.parquet", b"plain text", "r.parquet is of no kind that is read"),
        ("r.jsonl", b'{"text": "\xe9"}', "r.jsonl is not UTF-8: line 1 has the byte 0xe9"),
    ],
)
def test_what_is_no_such_container_is_one_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        records.read(str(tmp_path / name), "auto")


def test_a_cut_parquet_is_one_error(tmp_path):
    _parquet(tmp_path / "r.parquet", ROWS)
    whole = (tmp_path / "r.parquet").read_bytes()
    (tmp_path / "r.parquet").write_bytes(whole[:-20])
    with pytest.raises(
        ValueError, match=r"r.parquet is no whole parquet file \(.*\); copy it again"
    ):
        records.read(str(tmp_path / "r.parquet"), "auto")


def test_directories_and_their_splits(tmp_path):
    _saved_splits(tmp_path / "s", ROWS)
    _saved(tmp_path / "d", ROWS)
    assert len(records.load(f"{tmp_path}/s:test", "auto")) == 2
    assert len(records.load(f"{tmp_path}/s:test[-1:]", "auto")) == 1
    with pytest.raises(ValueError, match=r"s has the splits test, train; choose one, as .*/s:test"):
        records.read(f"{tmp_path}/s:dev", "auto")
    with pytest.raises(ValueError, match=r"d has no splits, but 'train' is named"):
        records.read(f"{tmp_path}/d:train", "auto")
    with pytest.raises(
        ValueError, match=r"is a directory, but none that datasets saved .*\*.jsonl"
    ):
        records.read(str(tmp_path), "auto")
    (file,) = (tmp_path / "d").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"d is no whole data set .*; save it again"):
        records.read(str(tmp_path / "d"), "auto")


def test_images_are_refused_by_their_column(tmp_path):
    rows = datasets.Dataset.from_list([{"text": "a", "picture": {"path": "x.png", "bytes": b"x"}}])
    rows.cast_column("picture", datasets.Image(decode=False)).save_to_disk(tmp_path / "d")
    with pytest.raises(
        ValueError, match="has image data in column 'picture', which is not trained"
    ):
        records.read(str(tmp_path / "d"), "auto")


def test_data_of_the_hub_are_asked_for_without_running_code(monkeypatch):
    asked = []

    def load_dataset(name, **options):
        asked.append((name, options))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = records.read("hub:owner/name:test[-4:]", "auto")
    assert found.records["prompt"][:] == [row["prompt"] for row in ROWS[-4:]]
    records.read("hub:owner/name", "auto")
    assert [(name, options["split"]) for name, options in asked] == [
        ("owner/name", "test"),
        ("owner/name", "train"),
    ]
    assert not any("trust_remote_code" in options for _, options in asked)
