"""The command that adds adapters, and its LoRA as PEFT reads it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers

from tera_jax import load_adapter
from tera_jax.adapters.combine import Term, merged
from tera_jax.llama import load_pretrained
from tests.margins import within
from train import combine, export
from train.config import parse
from train.training import run as runs
from train.training.workdir import init_workdir

TOKENS = np.random.default_rng(0).integers(3, 1000, (2, 24))


def call(capsys, *arguments):
    combine.main([*map(str, arguments)])
    *lines, last = capsys.readouterr().out.splitlines()
    return lines, json.loads(last)


def ours(model, params):
    logits = jax.jit(lambda p: model.apply({"params": p}, TOKENS.astype(np.int32))[0])(params)
    return np.asarray(logits)


@pytest.mark.long
def test_a_run_becomes_a_lora_that_peft_reads(finished, records_path, tmp_path, capsys):
    run, workdir = finished
    lines, report = call(
        capsys,
        *(workdir, "--as=lora", "--rank=8", f"--output={tmp_path / 'lora'}"),
        *(f"--nll={records_path}",),
    )
    assert len(lines) == 1 + 4 + 1  # q and v of two layers
    assert lines[1].startswith("layers/self_attn/q_proj[0]")
    kept = json.loads((tmp_path / "lora" / "truncation.json").read_text())
    assert [each["layer"] for each in kept["layers"]][-1] == "layers/self_attn/v_proj[1]"
    assert kept["adapters"] == {str(workdir): 1.0}
    assert 0.05 < report["error"] < 1
    assert report["nll"]["sum"] < report["nll"]["base"]
    assert report["nll"]["sum"] != report["nll"]["lora"] != report["nll"]["base"]

    base = run.config.model.path
    torch_base = transformers.AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    )
    torch_model = peft.PeftModel.from_pretrained(torch_base, tmp_path / "lora")
    with torch.no_grad():
        found = torch_model.eval()(torch.tensor(TOKENS)).logits.numpy()
    adapter, variables = load_adapter(tmp_path / "lora", run.params)
    assert (adapter.name, adapter.method.rank, adapter.method.scale) == ("lora", 8, 1.0)
    expected = ours(run.model, jax.jit(adapter.merge)(variables))
    within(np.abs(found - expected).max(), 1e-5 * np.ptp(expected))
    _, d = runs.restore_best(run, workdir)
    exact = ours(run.model, runs.merged(run, d))
    assert np.abs(found - exact).max() > 1e-3 * np.ptp(expected)


@pytest.mark.long
def test_the_merged_weights_are_those_of_the_library(finished, tmp_path, capsys):
    run, workdir = finished
    export.main([f"--workdir={workdir}", "--format=adapter", f"--output={tmp_path / 'a'}"])
    _, d = runs.restore_best(run, workdir)
    one = Term(0.5, run.adapter, run.variables(d))
    for weight, expected in (
        ("", merged([one, one._replace(weight=1.0)])),
        (":-0.5", run.params),
    ):
        output = tmp_path / f"hf{weight}"
        given = (f"{tmp_path / 'a'}:0.5", f"{workdir}{weight}", "--as=hf", f"--output={output}")
        _, report = call(capsys, *given)
        assert report["as"] == "hf"
        _, params = load_pretrained(output)
        for a, b in zip(*map(jax.tree.leaves, (params, expected)), strict=True):
            assert jnp.array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}:x", "--as=hf"], "has the weight 'x'; write a finite number"),
        (["{run}:inf", "--as=hf"], "has the weight 'inf'"),
        (["{run}", "--as=lora"], "--as=lora needs --rank"),
        (["{run}", "--as=hf", "--rank=4"], "--as=hf has no rank"),
        (["{run}", "--as=lora", "--rank=0"], "--rank=0; it must be at least 1"),
        (["{run}", "--as=lora", "--rank=17"], "rank 17, but the kernel"),
        (["{run}-none", "--as=hf"], "is no directory; name a run"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_base_is_loaded(
    tiny_config, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.setattr(runs, "build", None)
    init_workdir(tmp_path / "run", parse(tiny_config))
    given = [each.format(run=tmp_path / "run") for each in arguments]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        combine.main([*given, f"--output={tmp_path / 'out'}"])


def test_an_adapter_alone_needs_the_name_of_its_base(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="there is no base; name it by --model"):
        combine.main([str(tmp_path / "a"), "--as=hf", f"--output={tmp_path / 'out'}"])
