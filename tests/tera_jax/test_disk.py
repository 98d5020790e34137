"""Directories are whole or not there, also where a process was killed while it wrote one."""

import os

import pytest

from tera_jax import disk


def write(path):
    (path / "new").write_text("new")


def nothing(path):
    del path


@pytest.mark.parametrize("name", [".export.partial", ".export.partial-{process}"])
def test_what_a_killed_process_left_is_not_in_the_way(tmp_path, name):
    """Neither of this version nor of one that named it by its process id, which comes again."""
    left = tmp_path / name.format(process=os.getpid())
    (left / "deep").mkdir(parents=True)
    (left / "deep" / "old").write_text("old")
    disk.write_checked(tmp_path / "export", write, nothing)
    assert os.listdir(tmp_path) == ["export"]
    assert os.listdir(tmp_path / "export") == ["new"]


def test_others_with_a_similar_name_stay(tmp_path):
    for name in (".export.partial-mine", ".exports.partial-1", "export.partial-1"):
        (tmp_path / name).mkdir()
    disk.write_checked(tmp_path / "export", write, nothing)
    assert len(os.listdir(tmp_path)) == 4


def test_two_writers_do_not_mix(tmp_path):
    def other(path):
        with pytest.raises(FileExistsError, match="is being written by another process; wait"):
            disk.write_checked(tmp_path / "export", write, nothing)
        write(path)

    disk.write_checked(tmp_path / "export", other, nothing)
    assert os.listdir(tmp_path) == ["export"]
    with pytest.raises(FileExistsError, match="not empty"):
        disk.write_checked(tmp_path / "export", write, nothing)


def test_what_does_not_pass_its_check_is_gone(tmp_path):
    def fail(path):
        assert (path / "new").is_file()
        raise ValueError("it is not what was written")

    with pytest.raises(ValueError, match="not what was written"):
        disk.write_checked(tmp_path / "export", write, fail)
    assert os.listdir(tmp_path) == []


def test_temporary_files_do_not_make_a_directory_full(tmp_path):
    (tmp_path / ".settings.json.part").write_text("torn")
    disk.require_empty(tmp_path)
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(FileExistsError, match="not empty"):
        disk.require_empty(tmp_path)
