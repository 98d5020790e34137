"""The third task of the study of methods: its draw, its runs and its tables."""

import dataclasses
import gzip
import json
import math
import statistics
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from benchmarks import held_out
from benchmarks.commonsense import drawn, rows, runs, tables
from benchmarks.commonsense.drawn import TASKS, Sizes
from benchmarks.commonsense.rows import Row
from benchmarks.commonsense.tables import Pair
from benchmarks.variants import variants
from tera_jax.llama import load_pretrained, load_tokenizer
from train import data
from train.studies.results import Result
from train.studies.summaries import compare, summarize
from train.studies.variants import BASE, PLAIN

SIZES = Sizes(train=8, validation=3, test=2)


def question(task: str, number: int) -> dict[str, str]:
    """Of the kind of a sub-task."""
    kinds = {"piqa": "solution", "hellaswag": "ending", "winogrande": "option"}
    kind = kinds.get(task, "answer")
    labels = ["true", "false"] if task == "boolq" else [f"{kind}1", f"{kind}2"]
    stem = f"the cat {number} saw _ today." if task == "winogrande" else f"what is {number}?"
    texts = "" if task == "boolq" else f" {kind.capitalize()}1: red {kind.capitalize()}2: a sun"
    hint = "/".join(labels)
    answer = labels[number % 2]
    return {
        "instruction": f"Please say: {stem}{texts}\n\nAnswer format: {hint}",
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }


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


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["held_out", *map(str, arguments)])
    held_out.main()


def test_a_draw_has_no_record_twice_and_none_of_a_test(folder, monkeypatch, capsys):
    file = folder / "r.json.gz"
    sizes = ["--train-records=8", "--validation-records=3", "--test-records=2"]
    run(monkeypatch, "--draw", f"--commonsense={folder}", f"--records={file}", *sizes)
    found = drawn.read(file)
    assert found.identity in capsys.readouterr().out
    assert found.counts == {"train": 8, "validation": 3, **dict.fromkeys(TASKS, 2)}
    parts = [found.train, found.validation, *found.tests.values()]
    asked = [record["instruction"] for part in parts for record in part]
    # Sub-tasks of one kind have the same questions here.
    assert len({*asked[:11]}) == 11
    assert not {*asked[:11]} & {*asked[11:]}
    for task in TASKS:
        own = [question(task, number) for number in range(3)]
        assert all({**record, "input": ""} in own for record in found.tests[task])
    again = drawn.draw(folder / "all.jsonl.gz", folder, SIZES)
    assert again == found
    drawn.write(folder / "s.json.gz", again)
    assert (folder / "s.json.gz").read_bytes() == file.read_bytes()
    other = drawn.draw(folder / "all.jsonl.gz", folder, SIZES, seed=1)
    assert other.identity != found.identity


def test_files_that_do_not_fit_are_refused(folder):
    training = folder / "all.jsonl.gz"
    with pytest.raises(ValueError, match="fewer than the 99 asked for"):
        drawn.draw(training, folder, Sizes(96, 3, 1))
    with pytest.raises(ValueError, match="without records"):
        drawn.draw(training, folder, Sizes(8, 0, 1))
    with pytest.raises(FileNotFoundError, match="--train=nowhere does not exist"):
        drawn.draw(Path("nowhere"), folder, SIZES)
    with pytest.raises(FileNotFoundError, match=r"--records=nowhere does not exist; draw"):
        drawn.read(Path("nowhere"))
    with pytest.raises(ValueError, match="cannot be read"):
        drawn.read(folder / "boolq" / "test.json")
    (folder / "train.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match="has 2 files"):
        held_out._training_file(folder)
    broken = {**question("piqa", 0), "answer": "solution9"}
    (folder / "piqa" / "test.json").write_text(json.dumps([broken]))
    with pytest.raises(ValueError, match=r"piqa/test\.json has a record of another kind"):
        drawn.draw(training, folder, Sizes(8, 3, 1))


def row(variant, rate, seed, validation=1.0, losses=(1.0, 2.0), shares=(0.5, 0.25), **fields):
    usual = {
        "steps": 300 if rate else 0,
        "trained": 1234 if rate else 0,
        "targets": "",
        "seconds_per_step": 0.05,
        "seconds_of_scores": 1.0,
        "counts": {"train": 9600},
        "records": "r",
        "base": "b",
        "device": "GPU",
        "programs": {"jax": "0"},
    }
    scores = (dict(zip("ab", each, strict=True)) for each in (losses, shares, shares, losses))
    return Row(variant, rate, seed, **{**usual, **fields}, validation=validation, **_named(scores))


def _named(scores):
    return dict(zip(("nll", "accuracy", "by_length", "text_nll"), scores, strict=True))


ROWS = [
    row(BASE, 0.0, 0),
    row("tera", 1e-2, 0, 2.0, (9.0, 9.0)),
    row("tera", 3e-2, 0, 1.0, (2.0, 3.0), (0.5, 0.75)),
    row("tera", 3e-2, 1, 1.0, (2.25, 3.5), (0.75, 1.0)),
    row("tera", 3e-2, 2, 1.0, (2.5, 4.0), (0.25, 0.5)),
    row("vera", 1e-1, 0, 1.0, (1.0, 2.5)),
    row("vera", 1e-1, 1, 1.0, (1.5, 2.25)),
    row("vera", 1e-1, 2, 1.0, (2.0, 1.0)),
]


def test_the_table_has_means_over_sub_tasks_and_spreads_over_seeds():
    text = tables.markdown(ROWS, [BASE, "vera", "tera"], "tera", [Pair("tera", "vera")])
    means, *_ = text.split("\n\n")
    nll = [2.5, 2.875, 3.25]
    assert means.splitlines()[2:] == [
        "| base | 0 |  | 1 | 1.5000 | 37.50 | 37.50 | 1.5000 |",
        "| `vera` | 1,234 | 1e-01 | 3 | 1.7083 ± 0.1909 | 37.50 ± 0.00 | 37.50 ± 0.00 "
        "| 1.7083 ± 0.1909 |",
        f"| `tera` | 1,234 | 3e-02 | 3 | 2.8750 ± {statistics.stdev(nll):.4f} | 62.50 ± 25.00 "
        "| 62.50 ± 25.00 | 2.8750 ± 0.3750 |",
    ]
    assert "| `tera` | 2.2500 | 3.5000 |" in text
    assert "| `tera` | 50.00 | 75.00 |" in text
    gains = [1.0, 0.75, 0.5, 0.5, 1.25, 3.0]  # of vera, by sub-task and seed
    two_sided = stats.wilcoxon(gains).pvalue
    lower = stats.wilcoxon(gains, alternative="greater").pvalue
    against, second = text.split("Against ")[1:]
    assert against.startswith("`tera`, over pairs of sub-task and seed:")
    expected = f"6 | {-statistics.fmean(gains):+.4f} | {two_sided:.3g} | {lower:.3g} | 0.0312 |"
    assert f"| `vera` | {expected}" in against
    assert second.startswith("`vera`")
    assert "| `tera` | 6 | +1.1667 |" in second
    assert "| base |" in text
    assert "base |" not in against + second


def test_a_pair_is_a_sub_task_and_a_seed_that_both_have():
    fewer = [each for each in ROWS if (each.variant, each.seed) != ("vera", 2)]
    found = summarize([each for one in fewer for each in one.by_task()], 300)
    assert [(each.variant, each.pairs) for each in compare(found, "tera")] == [("vera", 4)]


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


def test_runs_are_read_again_and_those_of_other_records_refused(tmp_path):
    file = tmp_path / "r.jsonl"
    given = [ROWS[0], row("tera", 3e-2, 0, math.inf, (math.inf, 2.0), note="step 2")]
    for each in given:
        rows.append(file, each)
    assert rows.read(file) == given
    with file.open("a") as stream:
        stream.write('{"variant": "te')
    assert rows.read(file) == given
    rows.require_same(file, given, records="r", steps=300, base="b")
    for name, value in (("records", "s"), ("steps", 10), ("base", "c")):
        with pytest.raises(ValueError, match=f"with {name} .* another --output"):
            rows.require_same(file, given, **{name: value})
    file.write_text(file.read_text().splitlines()[0].replace('"a": 1.0, ', "", 1) + "\n")
    with pytest.raises(ValueError, match="line 1 has scores of different sub-tasks"):
        rows.read(file)


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
