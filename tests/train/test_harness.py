import functools
import json

import pytest
from lm_eval.tasks import TaskManager

from tests.train.evaluation.lm_eval_tasks import write_tasks
from train import harness
from train.evaluation import lm_eval_model


def test_one_command_writes_the_results(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        lm_eval_model, "TaskManager", functools.partial(TaskManager, include_defaults=False)
    )
    task_path = write_tasks(tmp_path)
    output = tmp_path / "new" / "results.json"
    arguments = [
        f"--workdir={finished[1]}",
        "--tasks=tiny_choice,tiny_rolling",
        f"--include_path={task_path}",
        f"--output={output}",
        "--limit=2",
        "--num_fewshot=1",
        "--batch_size=2",
    ]
    harness.main(arguments)
    results = json.loads(output.read_text())
    assert results["results"].keys() == {"tiny_choice", "tiny_rolling"}
    assert results["n-samples"]["tiny_choice"] == {"original": 4, "effective": 2}
    assert results["n-shot"]["tiny_choice"] == 1
    assert results["config"]["method"] == "tera"
    assert results["config"]["step"] == 12
    assert "samples" not in results
    printed = capsys.readouterr().out
    assert "tiny_choice" in printed
    assert "acc_norm" in printed
    monkeypatch.setattr(lm_eval_model, "TeraLM", None)
    with pytest.raises(FileExistsError, match="exists; remove it or choose another --output"):
        harness.main(arguments)
