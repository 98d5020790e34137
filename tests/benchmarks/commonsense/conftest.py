import gzip
import json
from pathlib import Path

import pytest

from benchmarks.commonsense.drawn import TASKS
from tests.benchmarks.commonsense.made import question


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A training file, in which each record stands twice, and the tests, which it has too."""
    every = [question(task, number) for task in TASKS for number in range(5)]
    with gzip.open(tmp_path / "all.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({**record, "task": "any"}) + "\n" for record in every * 2)
    for task in TASKS:
        (tmp_path / task).mkdir()
        own = [question(task, number) for number in range(3)]
        (tmp_path / task / "test.json").write_text(json.dumps(own))
    return tmp_path
