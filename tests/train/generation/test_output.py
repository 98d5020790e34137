"""The file of answers: in order, gone on with to the same bytes, and never mixed."""

import json

import pytest

from train.generation.output import AnswerFile

SETTINGS = {"model": {"path": "m"}, "seed": 0}


def _rows(start, stop):
    return ({"row": row, "answer": f"a{row} ü"} for row in range(start, stop))


@pytest.fixture
def whole(tmp_path):
    """The bytes of a file that was written in one go."""
    file = AnswerFile(tmp_path / "whole.jsonl", SETTINGS)
    assert file.done == 0
    file.write(_rows(0, 5))
    return (tmp_path / "whole.jsonl").read_bytes()


def test_a_killed_one_goes_on_to_the_same_bytes(whole, tmp_path):
    path = tmp_path / "answers.jsonl"

    class KilledError(Exception):
        pass

    def killed():
        yield from _rows(0, 2)
        raise KilledError

    with pytest.raises(KilledError):
        AnswerFile(path, SETTINGS).write(killed())
    with path.open("ab") as file:
        file.write(b'{"row": 2, "answ')  # cut off by the kill
    again = AnswerFile(path, SETTINGS)
    assert again.done == 2
    again.write(_rows(2, 5))
    assert path.read_bytes() == whole
    assert AnswerFile(path, SETTINGS).done == 5


def test_lines_after_a_gap_are_made_again(whole, tmp_path):
    path = tmp_path / "whole.jsonl"
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[2], lines[1]]))
    assert AnswerFile(path, SETTINGS).done == 1
    assert path.read_bytes() == lines[0]


@pytest.mark.usefixtures("whole")
def test_answers_under_other_settings_are_refused_and_stay(whole, tmp_path):
    path = tmp_path / "whole.jsonl"
    with pytest.raises(FileExistsError, match=r"settings\.seed: 0 -> 1\. Choose another --output"):
        AnswerFile(path, {**SETTINGS, "seed": 1})
    assert path.read_bytes() == whole


def test_a_file_of_another_kind_is_refused_and_stays(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text("mine\n")
    with pytest.raises(FileExistsError, match=r"no notes\.jsonl\.settings\.json says what made it"):
        AnswerFile(path, SETTINGS)
    assert path.read_text() == "mine\n"
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        AnswerFile(tmp_path / "none" / "a.jsonl", SETTINGS)


def test_each_line_is_one_object_in_plain_letters(whole):
    assert [json.loads(line)["row"] for line in whole.splitlines()] == [0, 1, 2, 3, 4]
    assert "ü".encode() in whole
