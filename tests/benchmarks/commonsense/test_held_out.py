"""The command of the third task: its flags and its runs."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import held_out
from benchmarks.commonsense import drawn, rows, runs
from benchmarks.commonsense.drawn import TASKS
from benchmarks.variants import variants
from tera_jax.llama import load_pretrained, load_tokenizer
from tests.benchmarks.commonsense.made import SIZES, row, run
from train import data
from train.studies.results import Result
from train.studies.variants import BASE, PLAIN


def test_the_rates_are_those_that_won_on_the_other_tasks():
    def result(variant, task, rate, validation, seed=0, steps=300):
        return Result(variant, task, rate, seed, validation, 1.0, 1, 0.1, "GPU", steps)

    known = [
        result("lora", "GSM8K", 1e-2, 1.0),
        result("lora", "GSM8K", 3e-2, 2.0),
        result("lora", "GSM8K", 1e-1, 0.5, steps=150),
        result("lora", "ConvAI2", 3e-3, 4.0),
        result("hira", "GSM8K", 1e-1, 0.1),
    ]
    assert runs.rates("lora", known) == [3e-3, 1e-2]
    assert runs.rates("hira", known) == [1e-1]
    with pytest.raises(ValueError, match="vera has no finished runs"):
        runs.rates("vera", known)


def test_the_validation_part_chooses_the_rate_and_the_other_seeds_follow():
    losses = {1e-2: 2.0, 3e-2: 1.0, 1e-1: math.inf}
    made = []

    def make(rate, seed):
        made.append((rate, seed))
        return row("tera", rate, seed, losses[rate])

    done = [row("tera", 1e-2, 0, 2.0), row("tera", 3e-2, 1, 9.0)]
    found = runs.follow([1e-2, 3e-2, 1e-1], 3, done, make)
    assert made == [(3e-2, 0), (1e-1, 0), (3e-2, 2)]
    assert [(each.learning_rate, each.seed) for each in found] == [(3e-2, 0), (3e-2, 1), (3e-2, 2)]
    with pytest.raises(ValueError, match="no finite validation loss"):
        runs.follow([1e-1], 3, [], make)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--model is missing"),
        (["--model=m"], "--records is missing"),
        (["--model=m", "--records=r"], "--output is missing"),
        (["--table"], "--output is missing"),
        (["--draw"], "--commonsense is missing"),
        (["--model=m", "--records=r", "--output=o", "--only", "lorra"], "['lorra'] are none of"),
        (["--model=m", "--records=r", "--output=o", "--steps=0"], "--steps=0 must be at least 1"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, message, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, *flags)
    assert message in capsys.readouterr().err


def test_the_runs_are_those_of_the_study_with_the_commonsense_template(folder):
    records = drawn.draw(folder / "all.jsonl.gz", folder, SIZES)
    assert {*held_out.DEFAULT} <= {BASE, *held_out.KNOWN}
    known = [held_out.KNOWN[name] for name in held_out.DEFAULT if name != BASE]
    study = runs.study("m", "r", records, known)
    config = study.run(known[0], study.task(runs.NAME))
    assert (config.loop.steps, config.loop.batch_size, config.optim.warmup_steps) == (300, 32, 60)
    assert (config.data.prompt, config.data.bos, config.data.append_eos) == (
        "hira",
        "inference",
        False,
    )
    short = runs.study("m", "r", records, known, steps=10)
    assert short.run(known[0], short.task(runs.NAME)).optim.warmup_steps == 2


@pytest.mark.long
def test_a_study_in_small_is_measured_and_goes_on(folder, tiny_llama, monkeypatch, capsys):
    records, output, known = folder / "r.json.gz", folder / "o.jsonl", folder / "known.jsonl"
    drawn.write(records, drawn.draw(folder / "all.jsonl.gz", folder, SIZES))
    (small,) = variants(["lora:rank=4"])
    monkeypatch.setitem(held_out.KNOWN, "lora", dataclasses.replace(small, label="lora"))
    lines = [
        {"variant": name, "task": task, "learning_rate": rate, "seed": 0, "validation": 1.0}
        | {"test": 1.0, "trained": 1, "seconds_per_step": 0.1, "device": "d"}
        for task, rate in (("GSM8K", 1e-2), ("ConvAI2", 1e-1))
        for name in ("hira", "lora")
    ]
    known.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = [f"--model={tiny_llama}", f"--records={records}", f"--output={output}"]
    flags += ["--steps=2", "--seeds=2", f"--results={known}", "--only", BASE]
    with pytest.raises(SystemExit, match=r"failed: hira \(rank 32, but"):
        run(monkeypatch, *flags, "hira", "lora")
    flags.append("lora")
    found = rows.read(output)
    assert [(one.variant, one.learning_rate, one.seed) for one in found[:3]] == [
        (BASE, 0.0, 0),
        ("lora", 1e-2, 0),
        ("lora", 1e-1, 0),
    ]
    best = min(found[1:3], key=lambda one: one.validation).learning_rate
    assert [(one.learning_rate, one.seed) for one in found[3:]] == [(best, 1)]
    assert len({one.validation for one in found}) == 4

    whole = output.read_bytes()
    output.write_bytes(whole[:-20])
    run(monkeypatch, *flags)
    again = rows.read(output)
    assert again[:3] == found[:3]
    assert again[3].nll == found[3].nll
    capsys.readouterr()
    run(monkeypatch, *flags)
    assert rows.read(output) == again
    run(monkeypatch, "--table", f"--output={output}", "--baseline=lora")
    assert capsys.readouterr().out.count("| `lora` |") == 3

    expected = _losses(records, tiny_llama)
    errors = [abs(found[0].nll[task] / expected[task] - 1) for task in TASKS]
    assert max(errors) < 0.0036  # of bfloat16


def _losses(records: Path, model: Path) -> dict[str, float]:
    """The base's NLL of each sub-task in float32, a record at a time."""
    llama, params = load_pretrained(model, dtype=jnp.float32)
    tokenizer = load_tokenizer(model)
    read = drawn.read(records)
    study = runs.study(str(model), str(records), read, ())
    config = study.run(PLAIN, study.task(runs.NAME)).data
    result = {}
    for task, own in read.tests.items():
        losses = []
        for example in data.tokenize(own, tokenizer, config):
            ids = np.asarray(example.ids)
            logits_BLV, _ = llama.apply({"params": params}, jnp.asarray(ids[None, :-1]))
            logprobs = np.asarray(jax.nn.log_softmax(logits_BLV[0]))[
                np.arange(len(ids) - 1), ids[1:]
            ]
            losses += [-logprobs[np.asarray(example.mask[1:], bool)]]
        result[task] = float(np.concatenate(losses).mean())
    return result
