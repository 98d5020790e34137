import json
import shutil

import gguf
import jax
import numpy as np
import pytest
import torch

from tera_jax.llama import load_pretrained, load_tokenizer
from tests.margins import within
from train import export, pipeline
from train.config import parse
from train.training import run as runs

TOKENS = np.random.default_rng(0).integers(3, 1000, (2, 24)).astype(np.int32)


def logits(path):
    model, params = load_pretrained(path)
    return np.asarray(jax.jit(model.apply)({"params": params}, TOKENS)[0])


@pytest.mark.long
def test_a_run_exports_its_merged_weights_once(finished, tmp_path):
    run, workdir = finished
    _, d = runs.restore_best(run, workdir)
    path = export.export_once(run, d, "gguf", tmp_path) / "model-f16.gguf"
    first = path.stat().st_ino
    export.export_once(run, d, "gguf", tmp_path)
    assert path.stat().st_ino == first
    found = load_pretrained(path)[1]
    for a, b in zip(*map(jax.tree.leaves, (found, runs.merged(run, d))), strict=True):
        expected = torch.tensor(np.asarray(b))
        rounded = expected.half().float() if a.shape[-1] > 1 and a.ndim > 1 else expected
        stacked_scale = a.shape == (run.model.config.num_layers, run.model.config.hidden_size)
        np.testing.assert_array_equal(a, expected if stacked_scale else rounded)
    kernels = (tree["layers"]["self_attn"]["q_proj"]["kernel"] for tree in (found, run.params))
    assert not np.allclose(*kernels, rtol=1e-2)
    text = "cat: red? 12 suns"
    tokenizer = load_tokenizer(path)
    assert tokenizer(text)["input_ids"] == run.tokenizer(text)["input_ids"]
    chat = [[{"role": "user", "content": text}]]
    rendered = [
        each.apply_chat_template(*chat, tokenize=False) for each in (tokenizer, run.tokenizer)
    ]
    assert rendered[0] == rendered[1]
    assert text in rendered[0]
    fields = gguf.GGUFReader(path).fields
    assert fields["general.name"].contents() == "tiny tera"
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"


@pytest.mark.long
def test_types_of_the_gguf_export(finished, tmp_path, capsys):
    merged = None
    run, workdir = finished
    base = np.asarray(run.model.apply({"params": run.params}, TOKENS)[0])
    for kind, least, most in (("f16", 0, 5e-3), ("bf16", 1e-6, 5e-2), ("q8_0", 1e-6, 5e-2)):
        output = tmp_path / kind
        export.main(
            [f"--workdir={workdir}", "--format=gguf", f"--output={output}", f"--gguf-type={kind}"]
        )
        assert json.loads(capsys.readouterr().out)["format"] == "gguf"
        found = logits(output / f"model-{kind}.gguf")
        assert np.abs(found - base).max() > 1e-2 * np.ptp(base)
        merged = found if merged is None else merged
        error = np.abs(found - merged).max() / np.ptp(merged)
        assert error >= least
        within(error, most)


def with_config(tiny_llama, path, **changes):
    shutil.copytree(tiny_llama, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))
    return path


def test_other_families_and_tokenizers_are_refused_before_training(
    tiny_config, tiny_llama, tmp_path, monkeypatch
):
    monkeypatch.setattr(pipeline.data, "prepare", None)
    monkeypatch.setattr(runs, "build", None)
    mistral = with_config(
        tiny_llama, tmp_path / "mistral", model_type="mistral", sliding_window=None
    )
    strange = with_config(tiny_llama, tmp_path / "strange")
    tokenizer = json.loads((strange / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {**tokenizer["pre_tokenizer"]["pretokenizers"][-1]}
    (strange / "tokenizer.json").write_text(json.dumps(tokenizer))
    for path, message in (
        (mistral, "a GGUF file of a mistral model is not written: the families are llama, qwen2"),
        (strange, r'the pre-tokenizer \{"type": "ByteLevel".* is none of those that GGUF files'),
    ):
        tiny_config.model.path = str(path)
        tiny_config.export = ("gguf",)
        with pytest.raises(ValueError, match=message):
            pipeline.train(parse(tiny_config), tmp_path / "run")
        assert not list((tmp_path / "run").glob("*.json"))
