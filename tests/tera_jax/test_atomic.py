"""Files are whole or as they were."""

import contextlib
import math
import os

import pytest

from tera_jax import atomic


class KilledError(BaseException):
    """The process is gone."""


def test_a_file_is_replaced_as_a_whole(tmp_path):
    file = tmp_path / "a.json"
    atomic.write_json(file, {"a": 1})
    with contextlib.suppress(KilledError), atomic.replacing(file) as part:
        part.write_text("half")
        assert file.read_text() == '{\n  "a": 1\n}\n'
        raise KilledError
    assert file.read_text() == '{\n  "a": 1\n}\n'
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    left = tmp_path / ".a.json.part"
    left.write_text("a longer text that was cut off")
    assert atomic.is_part(left)
    atomic.write_text(tmp_path / "a.json", "b")
    assert (tmp_path / "a.json").read_text() == "b"
    assert os.listdir(tmp_path) == ["a.json"]


def test_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    """The file is flushed under its temporary name, and the directory after the renaming."""
    told = []
    sync = atomic.sync
    monkeypatch.setattr(
        atomic, "sync", lambda path: (told.append((path, sorted(os.listdir(tmp_path)))), sync(path))
    )
    atomic.write_text(tmp_path / "a", "b")
    assert told == [(tmp_path / ".a.part", [".a.part"]), (tmp_path, ["a"])]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_has_not_is_not_written(tmp_path, value):
    atomic.write_json(tmp_path / "a.json", {"a": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "a.json", {"a": value})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1.0\n}\n'


def test_a_name_that_is_taken_is_not_overwritten(tmp_path):
    for text in "ab":
        (tmp_path / "file").write_text(text)
        atomic.set_aside(tmp_path / "file", tmp_path / "aside")
    assert (tmp_path / "aside" / "file").read_text() == "a"
    assert (tmp_path / "aside" / "file-again").read_text() == "b"
