import json
import sys
from pathlib import Path

import jax
import pytest
from huggingface_hub import ModelCard

from tera_jax import load_adapter
from tera_jax.fingerprint import fingerprint
from train import export, model_card
from train.config import EXPORTS
from train.training import run as runs


@pytest.fixture
def best(finished):
    run, workdir = finished
    return (run, *runs.restore_best(run, workdir), workdir)


def test_the_card_has_what_the_run_knows(best, tmp_path, monkeypatch):
    run, step, d, workdir = best
    called = ["--workdir=/home/me/runs/x", "--format=adapter", "--output", "/home/me/a b"]
    monkeypatch.setattr(sys, "argv", [export.__file__, *called])
    monkeypatch.setattr(model_card, "kept_counts", lambda _: {"config.data.path": 1234})
    meta = run.meta._replace(data={"config.data.path": "0123456789abcdef"})
    text = model_card.text("adapter", run._replace(meta=meta), d, workdir, step)
    card = ModelCard(text).data  # as the hub reads it
    assert card.library_name == "tera-jax"
    assert card.tags == ["tera-jax", "tera"]
    assert card.base_model is None  # a directory here is no name there
    trained = sum(leaf.size for leaf in jax.tree.leaves(d))
    data = Path(run.config.data.path).name
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (loss,) = (row["held_out_loss"] for row in rows if row["step"] == step and len(row) < 4)
    for line in (
        f"# {Path(run.config.model.path).name} tuned with tera",
        f"| trainable parameters | {trained:,} (",
        f"fingerprint `{run.meta.base_fingerprint}`",
        f"| data.path | `{data}`, 1,234 records, identity `0123456789abcdef` |",
        f"| step | {step} |",
        f"| held-out loss, nats a token |  | {loss:.4f} |",
        "python -m train.export --workdir=x --format=adapter --output 'a b'",
        '"learning_rate": 0.03',
    ):
        assert line in text
    for place in ("/home", str(Path(run.config.data.path).parent)):
        assert place not in text
    # What is not known is not said.
    monkeypatch.setattr(sys, "argv", ["pytest"])
    less = model_card.text("adapter", run, d, None, None)
    for word in ("Figures", "Command", "| step", "identity"):
        assert word in text or word == "Figures"
        assert word not in less


def test_figures_are_those_of_the_exported_d(best, tmp_path):
    run, step, d, _ = best
    for place, loss, exact in (("before", 2.5, 0.25), ("evaluation", 1.25, 0.5)):
        for task in ("held-out", "own"):
            (tmp_path / place / task).mkdir(parents=True)
        (tmp_path / place / "held-out" / "loss.json").write_text(
            json.dumps({"d": fingerprint(d), "held_out_loss": loss})
        )
        summary = {"step": step, "metrics": {"exact": exact}, "examples": 6}
        (tmp_path / place / "own" / "summary.json").write_text(json.dumps(summary))
    text = model_card.text("hf", run, d, tmp_path, step)
    assert "| held-out loss, nats a token | 2.5000 | 1.2500 |" in text
    assert "| own: exact of 6 questions | 0.2500 | 0.5000 |" in text
    other = jax.tree.map(lambda leaf: leaf + 1, d)
    assert "1.2500" not in model_card.text("hf", run, other, tmp_path, step)
    assert "0.5000" not in model_card.text("hf", run, d, tmp_path, step + 1)


@pytest.mark.parametrize("format", EXPORTS)
def test_front_matter_names_the_library_and_a_base_of_the_hub(format, best):
    run, step, d, _ = best
    config = run.config.__class__(
        **{**vars(run.config), "model": type(run.config.model)(path="owner/base")}
    )
    card = ModelCard(model_card.text(format, run._replace(config=config), d, None, step)).data
    assert card.base_model == "owner/base"
    libraries = {"peft": "peft", "hf": "transformers", "gguf": "gguf"}
    assert card.library_name == libraries.get(format, "tera-jax")


@pytest.mark.long
def test_exports_have_cards_and_other_files_stay(best, tmp_path):
    run, step, d, _ = best
    path = export.export_once(run, d, "adapter", tmp_path, step)
    file = path / "README.md"
    assert f"| step | {step} |" in file.read_text()
    load_adapter(path, run.params)
    assert model_card.write(path, "adapter", run, d, None, step + 1) == file
    assert f"| step | {step + 1} |" in file.read_text()
    file.write_text("mine")
    assert model_card.write(path, "adapter", run, d, None, step) is None
    assert file.read_text() == "mine"
