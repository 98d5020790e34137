"""Which runs are analysed, and under which names."""

import pytest

from tests.train.analysis.drawn_runs import config_of
from train import analyze
from train.analysis.members import read
from train.training.workdir import init_workdir


@pytest.fixture
def run(tiny_llama, tmp_path):
    """Writes what is read of a run before its base is loaded."""

    def made(name, *args, model=tiny_llama, **fields):
        path = tmp_path / name
        init_workdir(path, config_of(model, *args, **fields))
        (path / "checksums").mkdir()
        (path / "checksums" / "6.json").write_text("{}")
        return path

    return made


def test_labels_name_what_differs_and_the_order_of_runs_does_not_matter(run):
    paths = [
        run("a", "tera", 1),
        run("b", "tera", 0),
        run("c", "tera", 0, num_modes=2, targets=("v_proj", "o_proj")),
        run("d", "lora", 0, rank=4, data="other/set.jsonl[:800],more.jsonl"),
        run("e", "toplora", rank=4),
        run("f", "prompt"),
    ]
    found, left_out = read(paths)
    assert [(each.label, each.task, each.seed, each.path.name) for each in found] == [
        ("tera", "records", 0, "b"),
        ("tera", "records", 1, "a"),
        ("tera:num_modes=2,targets=v_proj+o_proj", "records", 0, "c"),
        ("lora:rank=4", "set+more", 0, "d"),
    ]
    assert [line.rpartition("/")[2] for line in left_out] == [
        "e: toplora has no update of weights to be analysed",
        "f: prompt has no update of weights to be analysed",
    ]
    assert read([*reversed(paths)]) == (found, left_out)


def test_files_of_one_name_in_two_directories_are_two_tasks(run):
    found, _ = read([run("a", data="x/train.json"), run("b", data="y/train.json")])
    assert [each.task for each in found] == ["x-train.json", "y-train.json"]


def test_runs_that_cannot_be_analysed_together_are_refused(run, tiny_llama, tmp_path):
    first = run("a")
    with pytest.raises(ValueError, match=r"a and .*b are both tera on records with seed 0"):
        read([first, run("b")])
    other = tmp_path / "other-base"
    other.symlink_to(tiny_llama)
    with pytest.raises(ValueError, match="are of several bases"):
        read([first, run("c", model=other)])
    (first / "checksums" / "6.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        read([first])


def test_what_is_wrong_is_said_before_the_base_is_loaded(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    with pytest.raises(FileExistsError, match="not empty"):
        analyze.main([str(run("a")), f"--output={tmp_path / 'out'}"])
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        analyze.main([str(tmp_path / "none"), f"--output={tmp_path / 'new'}"])
    with pytest.raises(ValueError, match="none of the runs has updates of kernels"):
        analyze.main([str(run("b", "toplora", rank=4)), f"--output={tmp_path / 'new'}"])
    assert not (tmp_path / "new").exists()
