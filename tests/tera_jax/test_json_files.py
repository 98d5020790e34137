"""Foreign JSON is an object of plain values, or one error that names the file."""

import itertools
import json
import time
from typing import Any, Literal

import pytest

from tera_jax import json_files
from tera_jax.json_files import REQUIRED, Key, parse, read, typed

TABLE = {
    "rank": Key(int, 8, least=1),
    "rate": Key(float, 0.0, least=0, below=1),
    "scale": Key(float, above=0),
    "on": Key(bool, False),
    "name": Key(str | None, None),
    "choice": Key(Literal["none", False], "none", remedy="merge it"),
    "sizes": Key(tuple[int, ...], (), least=1),
    "each": Key(dict[str, float] | None, None, least=0),
    "any": Key(Any, None),
}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "Expecting value: line 1 column 1"),
        (b'{"a": 1', "Expecting ',' delimiter"),
        (b'{"a": 1} x', "Extra data"),
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
        (b'{"a": "\xff"}', "'utf-8' codec can't decode byte 0xff in position 7"),
        ('{"a": 1}'.encode("utf-16"), "'utf-8' codec"),
        (b'{"a": 1, "b": {"c": 2, "d": 3, "c": 2}}', "the key 'c' stands twice in an object"),
        (b'{"a": NaN}', "NaN is not a number of JSON"),
        (b'{"a": [-Infinity]}', "-Infinity is not a number of JSON"),
        (b'{"a": 1e999}', "the number 1e999 is beyond 64 bits"),
        (b'{"a": 18446744073709551616}', "the number 18446744073709551616 is beyond 64 bits"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "the number 1{40} is beyond 64 bits"),
        (b'{"a": "\\ud83d"}', "surrogates not allowed"),
        (b"[1, 2]", "its top level is no object"),
        (b"null", "its top level is no object"),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "more than 64 objects and lists"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "more than 64 objects and lists"),
        (b"[" * 100_000, "more than 64 objects and lists"),
    ],
)
def test_what_is_no_plain_object_is_one_error_with_the_name(tmp_path, data, why):
    (tmp_path / "f.json").write_bytes(data)
    with pytest.raises(ValueError, match=rf"f\.json is not JSON \(.*{why}.*\); fetch it again$"):
        read(tmp_path / "f.json", remedy="fetch it again")


def test_plain_objects_are_read():
    content = {"a": [1, -2.5e3, None, True, "ä"], "b": {}}
    assert parse(json.dumps(content).encode(), "here") == content
    assert parse(b'{"a": "\\ud83d\\ude00", "b": 18446744073709551615}', "here") == {
        "a": "\U0001f600",
        "b": 2**64 - 1,
    }
    assert parse(b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}", "here")


def test_a_file_that_is_absent_or_too_large(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"f\.json does not exist; write the file again"):
        read(tmp_path / "f.json")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read(tmp_path)
    (tmp_path / "f.json").write_bytes(b'{"a": "' + b" " * 100 + b'"}')
    assert read(tmp_path / "f.json", limit=109)
    with pytest.raises(ValueError, match=r"f\.json is larger than 108 bytes, too large"):
        read(tmp_path / "f.json", limit=108)


def test_the_densest_file_takes_little_time(tmp_path):
    (tmp_path / "f.json").write_bytes(b'{"a":[' + b"[]," * (json_files.LIMIT // 3 - 4) + b"1]}")
    start = time.process_time()
    assert len(read(tmp_path / "f.json")["a"]) > 10**6
    assert time.process_time() - start < 10


def test_absent_keys_have_their_defaults_and_present_ones_their_values():
    expected = {name: key.default for name, key in TABLE.items()} | {"scale": 2}
    assert typed("f", {"scale": 2}, TABLE) == expected
    full = {
        "rank": 1, "rate": 0, "scale": 0.5, "on": True, "name": "n", "choice": False,
        "sizes": [1, 2], "each": {"q": 0}, "any": {"x": []},
    }  # fmt: skip
    found = typed("f", full, TABLE)
    assert found == full
    assert type(found["rate"]) is float
    for order in itertools.islice(itertools.permutations(full), 0, 300_000, 30_000):
        assert typed("f", {name: full[name] for name in order}, TABLE) == full


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": "8"}, "f sets rank to '8', not a whole number of at least 1; write the file"),
        ({"rank": 8.0}, "f sets rank to 8.0, not a whole number"),
        ({"rank": True}, "f sets rank to True, not a whole number"),
        ({"rank": None}, "f sets rank to None, not a whole number"),
        ({"rank": 0}, "f sets rank to 0, not a whole number of at least 1"),
        ({"rate": 1}, "f sets rate to 1, not a number of at least 0 and below 1"),
        ({"rate": False}, "f sets rate to False"),
        ({"scale": 0}, "f sets scale to 0, not a number above 0"),
        ({"on": 1}, "f sets on to 1, not true or false"),
        ({"name": 3}, "f sets name to 3, not a text or null"),
        ({"choice": 0}, 'f sets choice to 0, not "none" or false; merge it'),
        ({"sizes": 3}, "f sets sizes to 3, not a list, each entry a whole number of at least 1"),
        ({"sizes": [3, 0]}, r"f sets sizes to \[3, 0\], not a list"),
        ({"each": {"q": "1"}}, r"f sets each to \{'q': '1'\}, not an object, each value a number"),
        ({"each": {"q": -1}}, "f sets each to"),
        ({"more": 1}, r"f has the unknown key 'more' \(1\)"),
        ({"name": ["x" * 500]}, r"f sets name to \['x{75}\.\.\., not"),
    ],
)
def test_another_value_is_one_error_with_key_value_and_remedy(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        typed("f", {"scale": 1.0, **change}, TABLE)


def test_a_required_key_and_keys_of_an_inner_object():
    assert repr(REQUIRED) == "REQUIRED"
    with pytest.raises(ValueError, match="f lacks scale, a number above 0; write the file again"):
        typed("f", {}, TABLE)
    with pytest.raises(ValueError, match=r"f lacks in\.scale, a number above 0; ask"):
        typed("f", {}, TABLE, within="in.", remedy="ask")
    with pytest.raises(ValueError, match=r"unknown key 'in\.more'"):
        typed("f", {"scale": 1, "more": 2}, TABLE, within="in.")
    assert "more" not in typed("f", {"scale": 1, "more": 2}, TABLE, others="ignore")


def test_larger_integers_where_they_are_allowed(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert read(file, integer_bits=128) == {"model_max_length": int(1e30)}
    with pytest.raises(ValueError, match="1000000000000000019884624838656 is beyond 64 bits"):
        read(file)
    file.write_text('{"a": 1' + "0" * 9999 + "}")
    with pytest.raises(ValueError, match="is beyond 128 bits"):
        read(file, integer_bits=128)


def test_what_is_not_finite_is_written_as_null():
    results = {"a": {"acc": 0.5, "stderr": float("nan")}, "b": [float("-inf"), 1, "NaN", None]}
    assert json_files.finite(results) == {
        "a": {"acc": 0.5, "stderr": None},
        "b": [None, 1, "NaN", None],
    }
