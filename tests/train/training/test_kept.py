import pytest

from train.training import kept


def test_what_was_written_is_read(tmp_path):
    file = tmp_path / "a.json"
    assert kept.read(file) is None
    file.write_text('{"a": [1, 2.5]}')
    assert kept.read(file) == {"a": [1, 2.5]}


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"a": ', b"\xff", b'{"a": NaN}', b"[" * 10**5])
def test_a_damaged_file_counts_as_not_there(content, tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    assert kept.read(file) is None


def test_a_line_counts_when_it_was_written_to_its_end():
    assert kept.line('{"a": 1}\n') == {"a": 1}
    for cut in ('{"a": 1}', '{"a": \n', "[1]\n", "\n"):
        assert kept.line(cut) is None
