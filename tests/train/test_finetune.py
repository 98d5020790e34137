"""``tera_jax.finetune``: the command's run, and what its result can do."""

import json

import datasets
import jax
import numpy as np
import pytest
import transformers

import tera_jax
from tera_jax.llama import load_pretrained
from train import finetune
from train.config import parse
from train.training import run as runs
from train.training.workdir import require_workdir, saved_config

SETTINGS = {
    "steps": 6,
    "batch_size": 4,
    "packed_length": 128,
    "num_modes": 2,
    "learning_rate": 3e-2,
    "remat": "none",
    "eval_every": 3,
    "decoding": {"max_new_tokens": 8},
}
PROMPT = "a: red?"


@pytest.fixture(scope="module")
def rows(records_path):
    return json.loads(records_path.read_text())[:60]


@pytest.fixture(scope="module")
def given(rows, tmp_path_factory):
    """A workdir, a file of questions, and settings under which it is answered."""
    place = tmp_path_factory.mktemp("finetune")
    questions = [
        {"prompt": row["instruction"], "answer": row["answer"], "choices": ["true", "false"]}
        for row in rows[:5]
    ]
    file = place / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in questions))
    evaluate = {"batch_size": 4, "path": str(file), "task": "own"}
    evaluate["metrics"] = ["contains", "choice"]
    return {"workdir": place / "run", "evaluate": evaluate, **SETTINGS}


@pytest.fixture(scope="module")
def tuned(tiny_llama, rows, given):
    return tera_jax.finetune(tiny_llama, rows, **given)


def test_the_run_is_the_commands(tuned, tiny_llama, rows):
    config = parse(saved_config(tuned.workdir))
    assert config == tuned.run.config
    assert config.model.path == str(tiny_llama)
    assert (config.loop.batch_size, config.optim.learning_rate) == (4, 3e-2)
    # The rest is that of configs/sft.py, which cuts no response.
    assert (config.data.prompt, config.optim.schedule) == ("auto", "cosine")
    losses = [row["held_out_loss"] for row in tuned.history if "held_out_loss" in row]
    assert losses[-1] < losses[0]
    assert tuned.step == 6
    assert "step 6" in repr(tuned)
    assert "held-out" in repr(tuned.plot())


def test_the_same_call_goes_on_and_other_records_are_refused(tuned, tiny_llama, rows, given):
    again = tera_jax.finetune(tiny_llama, datasets.Dataset.from_list(rows), **given)
    for a, b in zip(*map(jax.tree.leaves, (again.d, tuned.d)), strict=True):
        np.testing.assert_array_equal(a, b)
    before = (tuned.workdir / "records.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="holds other records; give those again"):
        tera_jax.finetune(tiny_llama, rows[1:], **given)
    with pytest.raises(FileExistsError, match=r"optim\.learning_rate: 0\.03 -> 0\.01"):
        tera_jax.finetune(tiny_llama, rows, **{**given, "learning_rate": 1e-2})
    assert (tuned.workdir / "records.jsonl").read_bytes() == before


def test_it_answers_saves_and_merges(tuned, tiny_llama, tmp_path, capsys, monkeypatch):
    answers = tuned.generate([PROMPT, "b: sun?"], max_new_tokens=6)
    assert tuned.generate(PROMPT, max_new_tokens=6) == answers[0]
    assert "".join(tuned.stream(PROMPT, max_new_tokens=6)) == answers[0]
    assert tuned.generate(PROMPT, max_new_tokens=6, base=True) != answers[0]
    lines = iter([PROMPT, "/quit"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    capsys.readouterr()
    tuned.chat(max_new_tokens=6)
    assert answers[0] in capsys.readouterr().out
    _, params = load_pretrained(tiny_llama)
    adapter, variables = tera_jax.load_adapter(tuned.save(tmp_path / "adapter"), params)
    merged = jax.jit(adapter.merge)(variables)
    for a, b in zip(*map(jax.tree.leaves, (tuned.merge(), merged)), strict=True):
        np.testing.assert_array_equal(a, b)
    tuned.save(tmp_path / "hf", "hf")
    assert transformers.AutoConfig.from_pretrained(tmp_path / "hf").model_type == "llama"
    with pytest.raises(FileExistsError):
        tuned.save(tmp_path / "hf", "hf")
    with pytest.raises(ValueError, match="format 'pickle'; choose one of adapter, peft, hf"):
        tuned.save(tmp_path / "other", "pickle")


def test_a_task_of_ones_own_is_measured_before_and_after(tuned, given, capsys):
    place = tuned.workdir / "evaluation" / "own"
    rows = [json.loads(line) for line in (place / "compared.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == [0, 1, 2, 3, 4]
    answers = tuned.generate([row["prompt"] for row in rows], max_new_tokens=8)
    assert [row["after"]["answer"] for row in rows] == answers
    assert [row["before"]["answer"] for row in rows] != answers
    assert {*rows[0]["after"]["scores"]} == {"contains", "choice"}
    file = given["evaluate"]["path"]
    found = tuned.evaluate(file, ["contains", "choice"])
    assert found["contains"] == np.mean([row["after"]["scores"]["contains"] for row in rows])
    assert {*tuned.evaluate(file, "exact", limit=2, base=True)} == {"exact"}


@pytest.mark.long
def test_a_benchmark_keeps_its_own_metrics(tuned, records_path):
    found = tuned.evaluate(records_path, task="boolq", limit=4)
    assert set(found) == {"accuracy", "parsed"}


class BuiltError(Exception):
    """The run was to begin."""


@pytest.fixture
def begin(monkeypatch):
    """``finetune`` up to where the run would begin: its configuration."""
    seen = []

    def train(config, workdir, callbacks):
        seen.append((config, callbacks))
        raise BuiltError

    monkeypatch.setattr(finetune.pipeline, "train", train)

    def begin(*args, **kwargs):
        with pytest.raises(BuiltError):
            tera_jax.finetune(*args, **kwargs)
        return seen[-1]

    return begin


def test_settings_find_their_section(begin, tiny_llama, records_path, tmp_path):
    given = {"workdir": tmp_path / "a", "method": "lora", "rank": 4, "targets": "q_proj"}
    given |= {"seed": 3, "loop": {"epochs": 2.0}, "export": ["adapter"], "live": True}
    config, callbacks = begin(tiny_llama, records_path, callbacks=[{"on_end": print}], **given)
    assert (config.method.name, config.method.settings.rank) == ("lora", 4)
    assert config.method.targets == ("q_proj",)
    assert (config.loop.seed, config.loop.epochs, config.export) == (3, 2.0, ("adapter",))
    assert config.data.path == str(records_path)
    assert config.optim.learning_rate == 1e-2  # LoRA's of configs/sft.py
    assert [type(each).__name__ for each in callbacks] == ["dict", "LiveCurve"]


def test_a_temporary_workdir_is_told(begin, tiny_llama, rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config, _ = begin(tiny_llama, rows)
    said = capsys.readouterr().out
    place = said.removeprefix("the run is kept in ").strip()
    assert config.data.path.startswith(place)


def test_a_run_that_was_killed_before_it_began_goes_on(begin, tiny_llama, rows, tmp_path):
    """Its records are there, and its configuration is not."""
    config, _ = begin(tiny_llama, rows, workdir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]
    assert begin(tiny_llama, rows, workdir=tmp_path)[0] == config
    require_workdir(tmp_path, config)


@pytest.mark.parametrize(
    ("records", "settings", "error", "message"),
    [
        ("none.jsonl", {}, FileNotFoundError, "none.jsonl does not exist"),
        (3, {}, ValueError, "the records are a int; give a file, a list"),
        ({"a": "b"}, {}, ValueError, "the records are one dictionary; give a list"),
        (["a"], {}, ValueError, "record 0 is a str, not a dictionary"),
        ([{"a": object()}], {}, ValueError, "record 0 is not of plain values"),
        ([{"a": "b"}], {}, ValueError, r"record 0 of .*records.jsonl \(line 1\)"),
        ([], {"learning_rat": 1}, ValueError, "'learning_rat'; did you mean learning_rate"),
        ([], {"loop": {"step": 1}}, ValueError, r"did you mean config\.loop\.steps"),
        ([], {"method": "nora"}, ValueError, "nora"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_is_refused_by_name(
    tiny_llama, tmp_path, monkeypatch, records, settings, error, message
):
    monkeypatch.setattr(runs, "build", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        tera_jax.finetune(tiny_llama, records, workdir=tmp_path / "run", **settings)


def test_a_directory_of_something_else_stays(tiny_llama, rows, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty and has no records"):
        tera_jax.finetune(tiny_llama, rows, workdir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
