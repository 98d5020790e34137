"""The records of the third task."""

import json
from pathlib import Path

import pytest

from benchmarks import held_out
from benchmarks.commonsense import drawn
from benchmarks.commonsense.drawn import TASKS, Sizes
from tests.benchmarks.commonsense.made import SIZES, question, run


def test_a_draw_has_no_record_twice_and_none_of_a_test(folder, monkeypatch, capsys):
    file = folder / "r.json.gz"
    sizes = ["--train-records=8", "--validation-records=3", "--test-records=2"]
    run(monkeypatch, "--draw", f"--commonsense={folder}", f"--records={file}", *sizes)
    found = drawn.read(file)
    assert found.identity in capsys.readouterr().out
    assert found.counts == {"train": 8, "validation": 3, **dict.fromkeys(TASKS, 2)}
    parts = [found.train, found.validation, *found.tests.values()]
    asked = [record["instruction"] for part in parts for record in part]
    # Sub-tasks of one kind have the same questions here.
    assert len({*asked[:11]}) == 11
    assert not {*asked[:11]} & {*asked[11:]}
    for task in TASKS:
        own = [question(task, number) for number in range(3)]
        assert all({**record, "input": ""} in own for record in found.tests[task])
    again = drawn.draw(folder / "all.jsonl.gz", folder, SIZES)
    assert again == found
    drawn.write(folder / "s.json.gz", again)
    assert (folder / "s.json.gz").read_bytes() == file.read_bytes()
    other = drawn.draw(folder / "all.jsonl.gz", folder, SIZES, seed=1)
    assert other.identity != found.identity


def test_files_that_do_not_fit_are_refused(folder):
    training = folder / "all.jsonl.gz"
    with pytest.raises(ValueError, match="fewer than the 99 asked for"):
        drawn.draw(training, folder, Sizes(96, 3, 1))
    with pytest.raises(ValueError, match="without records"):
        drawn.draw(training, folder, Sizes(8, 0, 1))
    with pytest.raises(FileNotFoundError, match="--train=nowhere does not exist"):
        drawn.draw(Path("nowhere"), folder, SIZES)
    with pytest.raises(FileNotFoundError, match=r"--records=nowhere does not exist; draw"):
        drawn.read(Path("nowhere"))
    with pytest.raises(ValueError, match="cannot be read"):
        drawn.read(folder / "boolq" / "test.json")
    (folder / "train.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match="has 2 files"):
        held_out._training_file(folder)
    broken = {**question("piqa", 0), "answer": "solution9"}
    (folder / "piqa" / "test.json").write_text(json.dumps([broken]))
    with pytest.raises(ValueError, match=r"piqa/test\.json has a record of another kind"):
        drawn.draw(training, folder, Sizes(8, 3, 1))
