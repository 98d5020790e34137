"""The Python of README and docs/using.md runs as it stands."""

import json
import re
from pathlib import Path

import pytest

from train.config import flag

ROOT = Path(__file__).parents[2]


def blocks(name):
    """The Python blocks of a page that begin with an import, or follow one that does."""
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


@pytest.fixture
def place(tiny_llama, records_path, tmp_path, monkeypatch):
    """A directory with what the pages name: a model, and a file of records."""
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "model").symlink_to(tiny_llama)
    rows = json.loads(records_path.read_text())[:24]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "records.jsonl").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    recipe = flag.recipe

    def short_rows(name, method):
        config = recipe(name, method)
        config.data.packed_length = 64
        return config

    monkeypatch.setattr(flag, "recipe", short_rows)
    return tmp_path


def test_the_five_lines_of_the_readme_train_answer_and_save(place, capsys):
    first = next(block for block in blocks("README.md") if "finetune" in block)
    assert len([line for line in first.splitlines() if line]) <= 5
    exec(first, {})
    assert "after (step " in capsys.readouterr().out
    assert (place / "adapter" / "adapter.safetensors").is_file()
    # What is said of a model without a run is of this one's adapter.
    last = blocks("docs/using.md")[-1]
    found = {}
    exec(last, found)
    assert len(found["answers"]) == 2
    assert found["base"]


def test_the_callback_of_the_page_ends_a_training(place, monkeypatch, capsys):
    monkeypatch.setattr("train.training.loop.held_out_loss", lambda *_: 0.1)
    _, patience, _ = blocks("docs/using.md")
    settings = 'eval_every=2, steps=9, callbacks=[{"on_eval"'
    exec("import tera_jax\n" + patience.replace('callbacks=[{"on_eval"', settings), {})
    assert "a callback ends the training at step 2 of 9" in capsys.readouterr().out
