"""A file of prompts and answers of one's own: scored, and compared with the base."""

import dataclasses
import importlib
import json
import shutil

import jax
import pytest

from train import data, evaluate
from train.evaluation import answers
from train.evaluation.questions import Question
from train.generation.style import style_of
from train.training import run as runs
from train.training.loop import held_out_loss
from train.training.steps.step import make_eval_step


def test_a_file_of_ones_own_is_compared_with_the_base(finished, tmp_path, capsys, monkeypatch):
    run, workdir = finished
    own = tmp_path / "run"
    shutil.copytree(workdir, own)
    file = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"{x}: red?", "answer": ["true", "false"], "id": x} for x in "abc"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "my_metric.py").write_text(
        "def of_id(output, record):\n    return record['id'] == 'b'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    given = [f"--workdir={own}", f"--file={file}", "--metrics", "contains", "my_metric:of_id"]
    given.append("loss")
    evaluate.main([*given, "--compare"])
    said = capsys.readouterr().out
    assert f"the metric my_metric:of_id is the code in {tmp_path / 'my_metric.py'}" in said
    (line,) = (line for line in said.splitlines() if "my_metric:of_id  " in line)
    assert line.split()[-2:] == ["33.33%", "33.33%"]
    # The loss of the first answers is that of such records.
    (line,) = (line for line in said.splitlines() if line.startswith("own loss"))
    examples = data.tokenize(
        [{"instruction": row["prompt"], "output": "true"} for row in rows],
        run.tokenizer,
        run.config.data,
    )
    eval_step = make_eval_step(run.model, run.adapter, run.mesh, run.params)
    with jax.set_mesh(run.mesh):
        losses = [
            held_out_loss(run, eval_step, d, examples)
            for d in (runs.init_d(run), runs.restore_best(run, workdir)[1])
        ]
    assert line.split()[-2:] == [f"{loss:.4f}" for loss in losses]
    assert losses[0] > losses[1]
    (head,) = (line for line in said.splitlines() if line.split() == ["base", "step", "12"])
    assert head.endswith("step 12")
    compared = own / "evaluation" / "own" / "compared.jsonl"
    lines = [json.loads(line) for line in compared.read_text().splitlines()]
    assert [line["after"]["scores"]["my_metric:of_id"] for line in lines] == [0.0, 1.0, 0.0]
    assert lines[0]["gold"] == ["true", "false"]
    assert lines[0]["before"]["answer"] != lines[0]["after"]["answer"]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("auto", "    return 7\n"), ("hira", "return 7")],  # a named template has no space around it
)
def test_a_function_gets_what_generate_prints(finished, tmp_path, monkeypatch, prompt, expected):
    (tmp_path / "my_spaces.py").write_text(
        "outputs = []\ndef keep(output, record):\n    outputs.append(output)\n    return True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run, _ = finished
    section, of = dataclasses.replace(run.config.data, prompt=prompt), run.config.evaluate
    metrics = dataclasses.replace(of, metrics=("my_spaces:keep", "exact"))
    run = run._replace(config=dataclasses.replace(run.config, data=section, evaluate=metrics))
    question = Question({"prompt": "Go on.", "answer": "return 7"}, ("return 7",))
    found = answers.judged(0, question, "    return 7\n", "own", run)
    assert found.scores == {"my_spaces:keep": 1.0, "exact": 1.0}
    assert found.answer == expected
    assert importlib.import_module("my_spaces").outputs.pop() == expected
    printed = "".join(style_of(run.tokenizer, section).clean(iter(["    return", " 7\n"])))
    assert printed == expected


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--file=a", "--tasks", "boolq"], "--file is scored by --metrics; leave out --tasks"),
        (["--metrics", "exact"], "--metrics is for --file"),
        (["--compare", "--base"], "--compare writes both evaluations"),
        (["--compare", "--score=texts"], "--compare is of generated answers"),
        (["--file={}", "--metrics", "number"], r"record 1 of .* \(line 2\) has no number in"),
        (["--file={}", "--metrics", "nowhere:f"], "cannot be imported"),
    ],
)
def test_flags_and_files_that_do_not_fit_are_refused_before_the_base_is_loaded(
    finished, tmp_path, monkeypatch, more, message
):
    monkeypatch.setattr(runs, "build", None)
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "a", "answer": 1}\n{"prompt": "a", "answer": "b"}\n')
    with pytest.raises((ValueError, ImportError), match=message):
        evaluate.main([f"--workdir={finished[1]}", *(each.format(file) for each in more)])
