"""What an evaluation left on disk is gone on with, made again, or moved; it is never mixed."""

import json

import pytest

from train.evaluation import answers, measure

SETTINGS = {"task": "commonsense", "step": 4, "questions": 7}


@pytest.fixture
def place(tmp_path):
    directory = tmp_path / "evaluation" / "commonsense"
    answers.init_directory(directory, SETTINGS)
    (directory / "answers.jsonl").write_text('{"row": 0, "output": "a"}\n')
    return directory


def test_an_evaluation_goes_on_under_its_settings(place):
    answers.init_directory(place, SETTINGS)
    assert answers.read(place) == {0: "a"}


@pytest.mark.parametrize("text", ["", "{", "7", '{"task": "comm'])
def test_answers_under_settings_that_cannot_be_read_are_made_again(place, capsys, text):
    (place / "settings.json").write_text(text)
    answers.init_directory(place, SETTINGS)
    assert answers.read(place) == {}
    moved = place.parent / "damaged" / "commonsense"
    assert answers.read(moved) == {0: "a"}
    said = capsys.readouterr().out
    assert f"{place} is made again" in said
    assert f"settings.json cannot be read); what was there is in {moved}" in said


def test_answers_under_other_settings_are_refused_or_moved(place, tmp_path, capsys):
    other = {**SETTINGS, "step": 8}
    with pytest.raises(FileExistsError, match=r"under other settings: settings.step: 4 -> 8"):
        answers.init_directory(place, other)
    answers.init_directory(place, other, tmp_path / "earlier")
    assert answers.read(place) == {}
    assert json.loads((place / "settings.json").read_text()) == other
    assert answers.read(tmp_path / "earlier" / "commonsense") == {0: "a"}
    assert "settings.step: 4 -> 8" in capsys.readouterr().out


def test_what_a_full_disk_left_is_not_in_the_way(tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / ".settings.json.part").write_text("{")
    answers.init_directory(tmp_path / "task", SETTINGS)
    assert json.loads((tmp_path / "task" / "settings.json").read_text()) == SETTINGS


@pytest.mark.parametrize("torn", ['{"row": 1, "out', '{"row": 1, "output": "b"}', "\x00\n", "7\n"])
def test_torn_answers_are_asked_again(place, torn):
    with (place / "answers.jsonl").open("a") as file:
        file.write(torn)
    assert answers.read(place) == {0: "a"}
    assert (place / "answers.jsonl").read_text() == '{"row": 0, "output": "a"}\n'


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_summary_or_loss_that_cannot_be_read_is_made_again(tmp_path, capsys, text):
    file = tmp_path / "summary.json"
    assert measure._read(file) is None
    assert measure._kept_loss(file, {}) is None
    assert capsys.readouterr().out == ""
    file.write_text(text)
    assert measure._read(file) is None
    assert measure._kept_loss(file, {}) is None
    assert capsys.readouterr().out == f"{file} cannot be read; it is made again\n" * 2
    file.write_text('{"metrics": {}, "examples": 3, "held_out_loss": 1.5}')
    assert measure._read(file) == {"metrics": {}, "examples": 3}
    assert measure._kept_loss(file, {"metrics": {}, "examples": 3}) == 1.5


def test_a_loss_that_is_no_number_is_not_taken(tmp_path):
    file = tmp_path / "loss.json"
    file.write_text('{"held_out_loss": NaN}')
    assert measure._kept_loss(file, {}) is None
