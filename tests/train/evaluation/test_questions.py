import json

import pytest

from train.config import DataConfig
from train.evaluation import questions

CONFIG = DataConfig(path="x")


def write(path, rows):
    path.write_text(json.dumps(rows))
    return str(path)


def record(answer, output="b"):
    return {"instruction": "a", "output": output, "answer": answer}


def test_questions_need_an_answer_that_the_task_can_have(tmp_path):
    path = write(tmp_path / "t.json", [record("true"), record("false", output="")])
    found = questions.load(path, "boolq", CONFIG)
    assert [question.golds for question in found] == [("true",), ("false",)]
    assert len(questions.load(path, "commonsense", CONFIG, limit=1)) == 1
    path = write(tmp_path / "n.json", [record("true"), record(None)])
    with pytest.raises(ValueError, match=r"record 1 of .* has no text in field 'answer'"):
        questions.load(path, "boolq", CONFIG)
    path = write(tmp_path / "m.json", [record("maybe")])
    with pytest.raises(ValueError, match=r"record 0 of .* is no question of boolq: .*'maybe' is"):
        questions.load(path, "boolq", CONFIG)
    with pytest.raises(ValueError, match="unknown task 'bool'"):
        questions.load(path, "bool", CONFIG)
    with pytest.raises(ValueError, match="no list of JSON records"):
        questions.load(write(tmp_path / "e.json", []), "boolq", CONFIG)


def test_rows_of_equal_context_become_one_question(tmp_path):
    """Two answers to the same last utterances: with a short history the prompts are equal."""
    rows = [
        {"persona": ["p."], "history": ["a", "b", "c"], "output": "one"},
        {"persona": ["p."], "history": ["x", "b", "c"], "output": "two"},
        {"persona": ["p."], "history": ["a", "b", "d"], "output": "three"},
    ]
    path = write(tmp_path / "d.json", rows)
    config = DataConfig(path="x", prompt="convai2", history=2)
    found = questions.load(path, "convai2", config)
    assert [question.golds for question in found] == [("one", "two"), ("three",)]
    config = DataConfig(path="x", prompt="convai2", history=3)
    assert len(questions.load(path, "convai2", config)) == 3


def test_test_files_are_found_in_the_layout_of_llm_adapters(tmp_path):
    (tmp_path / "boolq").mkdir()
    path = write(tmp_path / "boolq" / "test.json", [record("true")])
    assert questions.find(str(tmp_path), ["boolq", "piqa=p.json"]) == {
        "boolq": path,
        "piqa": "p.json",
    }
    with pytest.raises(FileNotFoundError, match=r"task piqa: .*test\.json does not exist; give"):
        questions.find(str(tmp_path), ["piqa"])
    with pytest.raises(ValueError, match="unknown task 'pica'; did you mean 'piqa'"):
        questions.find(str(tmp_path), ["pica"])
