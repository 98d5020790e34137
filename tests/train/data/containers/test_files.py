"""Values of JSON files, with their lines, and one error each for what is no such file."""

import gzip
import json
import tracemalloc

import pytest

from train.data.containers import files

ROWS = [{"a": "x\ny"}, {"a": "é \U0001f600", "b": [1, {"c": None}]}, {"a": "]"}]


def read(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(files.values(path))


@pytest.mark.parametrize("block", [1, 2, 7, 2**18])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_is_read_in_blocks_of_any_size(tmp_path, monkeypatch, block, indent):
    monkeypatch.setattr(files, "_BLOCK", block)
    text = "\ufeff \n" + json.dumps(ROWS, indent=indent, ensure_ascii=False) + "\n"
    found = read(tmp_path / "r.json", text)
    assert [value for _, value in found] == ROWS
    lines = text.split("\n")
    for (line, _), row in zip(found, ROWS, strict=True):
        assert lines[line - 1].strip(" ").startswith("[" if indent is None else "{")
        if indent is not None:
            assert json.dumps(row["a"], ensure_ascii=False) in lines[line]


def test_lines_are_read_whatever_the_name_is(tmp_path):
    text = "\n" + "\n\n".join(map(json.dumps, ROWS))
    for name in ("r.json", "r.jsonl"):
        assert read(tmp_path / name, text) == [(2, ROWS[0]), (4, ROWS[1]), (6, ROWS[2])]
    assert read(tmp_path / "r.jsonl.gz", gzip.compress(text.encode()))[2] == (6, ROWS[2])
    assert read(tmp_path / "r.jsonl", json.dumps(ROWS)) == [(1, row) for row in ROWS]
    assert read(tmp_path / "r.jsonl", "{}\r\n{}\r\n") == [(1, {}), (2, {})]


@pytest.mark.parametrize("content", ["", " \n ", "\ufeff", "[]", " [ ] "])
def test_an_empty_file_has_no_values(tmp_path, content):
    assert read(tmp_path / "r.json", content) == []


def test_null_is_a_value(tmp_path):
    assert read(tmp_path / "r.json", "null") == [(1, None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", r"record 0 \(line 1\): Expecting value"),
        ('[{"a": 1},\n', r"record 1 \(line 2\): Expecting value"),
        ('[{"a": 1}\n', r"record 0 \(line 2\): the file ends after it"),
        ('[{"a": 1},\n{"a": }]', r"record 1 \(line 2\): Expecting value"),
        ('[{"a": 1},\n{"a": "b}]', r"record 1 \(line 2\): Unterminated string"),
        ('[{"a": 1}\n{"a": 2}]', r"record 0 \(line 2\): no ',' or ']' after it"),
        ('[{"a": 1}],', "text stands after the end of the list"),
        ("[1,]", r"record 1 \(line 1\): Expecting value"),
        ('{"a": 1}\n{"a" 2}\n', r"record 1 \(line 2\): Expecting ':' delimiter at column 6"),
        ('{"a": 1}\n{\n', r"record 1 \(line 2\): Expecting property name"),
        ('[{"a": 1, "b": 2, "a": 3}]', r"record 0 \(line 1\): field 'a' stands twice in it"),
        ('{"a": 1, "a": 1}', r"record 0 \(line 1\): field 'a' stands twice in it"),
        ("[" * 100_000, r"record 0 \(line 1\): it is nested too deeply"),
        ('{"a": ' + "[" * 100_000, r"record 0 \(line 1\): it is nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", r"record 0 \(line 1\): Exceeds the limit"),
        ('[{"a": ' + "9" * 5000 + "}]", r"record 0 \(line 1\): Exceeds the limit"),
    ],
)
def test_what_is_no_json_is_refused_by_record_and_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"r\.json holds no list of JSON records: .*{message}"):
        read(tmp_path / "r.json", content)


def test_other_encodings_are_refused_by_line(tmp_path):
    for content in (b'{"a": 1}\n{"a": "\xe9"}', b'[{"a": 1},\n{"a": "\xe9"}]'):
        with pytest.raises(ValueError, match=r"r\.json is not UTF-8: line 2 has the byte 0xe9"):
            read(tmp_path / "r.json", content)
    with pytest.raises(ValueError, match=r"r\.json is not UTF-8: line 1 has the byte 0xff"):
        read(tmp_path / "r.json", '[{"a": 1}]'.encode("utf-16"))
    with pytest.raises(ValueError, match=r"r\.json is not UTF-8: line 1 has the byte 0xc3"):
        read(tmp_path / "r.json", b'["\xc3')


def test_a_damaged_gz_is_refused(tmp_path):
    whole = gzip.compress("\n".join(json.dumps({"a": i}) for i in range(5000)).encode())
    checksum = bytearray(whole)
    checksum[-8] ^= 0xFF
    for content in (whole[:-20], whole[: len(whole) // 2], bytes(checksum), b"plain text"):
        with pytest.raises(
            ValueError, match=r"r\.json\.gz is no whole gzip file: .*; copy it again"
        ):
            read(tmp_path / "r.json.gz", content)
    assert len(read(tmp_path / "r.json.gz", whole)) == 5000


def test_an_early_error_in_a_long_list_is_found_at_once(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("[{]" + "0," * 10_000_000)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"record 0 \(line 1\): Expecting property name"):
        list(files.values(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * files._BLOCK
