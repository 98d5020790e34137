"""The study of methods: its table, its runs, and that the committed ones are still its own."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import methods
from benchmarks.study import OnBase, best_of_methods, on_base, table
from benchmarks.variants import CHOICES, METHODS, variants
from configs import commonsense
from train.config import parse
from train.studies import loop
from train.studies.jobs import trainer
from train.studies.jobs.job import Job, jobs
from train.studies.reports import pareto
from train.studies.results import Result, Results
from train.studies.variants import BASE

COMMITTED = Path(methods.__file__).parent / "results" / "methods.jsonl"
PATHS = {"GSM8K": "g.json", "ConvAI2": "c.txt"}


def result(variant, rate, seed, validation, test):
    return Result(variant, "T", rate, seed, validation, test, 1234, 0.05, "GPU", 300)


RESULTS = [
    result("lora", 1e-3, 0, 2.0, 2.5),
    result("lora", 3e-3, 0, 1.0, 9.0),
    result("lora", 1e-2, 0, 3.0, 0.5),
    result("lora", 3e-3, 1, 5.0, 7.0),
]


def test_the_table_has_means_and_spreads_of_the_test_loss():
    assert (
        table(RESULTS, ["base", "lora"]).splitlines()[2]
        == "| `lora` | 1,234 | 3e-03 | 8.0000 ± 1.4142 | 50.0 |"
    )


def test_the_table_of_the_committed_runs_stays(monkeypatch, capsys, tmp_path):
    expected = (Path(__file__).parent / "methods_table.md").read_text()
    monkeypatch.setattr(sys, "argv", ["methods", "--table", f"--output={COMMITTED}"])
    methods.main()
    assert capsys.readouterr().out == expected
    text = COMMITTED.read_text()
    (tmp_path / "r.jsonl").write_text(text.replace('"test": 0.79', '"test": 0.89'))
    monkeypatch.setattr(sys, "argv", ["methods", "--table", f"--output={tmp_path / 'r.jsonl'}"])
    methods.main()
    assert capsys.readouterr().out != expected


def test_of_each_method_the_variant_with_the_best_validation_is_drawn():
    runs = [
        result("lora", 1e-3, 0, 2.0, 2.5),
        result("lora", 1e-3, 1, 2.0, 3.5),
        result("lora rank=4", 1e-3, 0, 1.0, 4.5),
        result("lora rank=4", 1e-3, 1, 1.0, 5.5),
        result("lora rank=2", 1e-3, 0, 0.5, 9.0),  # too few seeds
        result("vera", 1e-3, 0, 3.0, 6.0),
        result("vera", 1e-3, 1, 3.0, 6.0),
        result("dora", 1e-3, 0, 0.1, 0.1),  # not named
        result("dora", 1e-3, 1, 0.1, 0.1),
    ]
    found = best_of_methods(runs, ["lora", "lora rank=4", "lora rank=2", "vera"], 300, 2)
    assert [(each.variant, each.test.mean) for each in found] == [("lora", 5.0), ("vera", 6.0)]


def test_the_figure_has_a_point_for_each_method(monkeypatch, capsys, tmp_path):
    drawn = []
    monkeypatch.setattr(pareto, "draw", lambda found, _: drawn.extend(found) or [])
    argv = ["methods", f"--figure={tmp_path}", f"--output={COMMITTED}"]
    monkeypatch.setattr(sys, "argv", argv)
    methods.main()
    points = [(each.task, each.variant) for each in drawn]
    assert len(points) == len(set(points))
    complete = {v.method for v in (*METHODS, *CHOICES)}
    assert {variant for _, variant in points} == complete
    unires = next(each for each in drawn if (each.task, each.variant) == ("GSM8K", "unires"))
    assert (unires.trained, round(unires.test.mean, 4)) == (40000, 0.8904)


ALL = "targets=q_proj+k_proj+v_proj+o_proj+gate_proj+up_proj+down_proj"
NO_RUNS = {"tera_unique"}
FIRST_SEED_AT_MOST = {
    "fourierft num_frequencies=614",
    "fourierft num_frequencies=614 targets=v_proj+o_proj",
    "vblora rank=2 vector_length=192 num_vectors=46",
    f"vblora rank=2 vector_length=192 num_vectors=11 {ALL}",
    f"tera tensorizations=8x72|9x64+8x72|4x48+8x72|12x128+12x128|9x64 init=orthogonal {ALL}",
}
UNFINISHED = {
    "GSM8K": NO_RUNS | FIRST_SEED_AT_MOST,
    "ConvAI2": NO_RUNS | FIRST_SEED_AT_MOST,
}
"""What the committed runs lack."""


def test_the_committed_runs_are_all_that_the_study_asks_for():
    results = OnBase(COMMITTED, methods.STEPS, "none")
    study = methods.study("m", PATHS, (*METHODS, *CHOICES))
    left = [job for job in jobs(study) if not loop.skipped(job, study, results)]
    assert {task: {job.variant for job in left if job.task == task} for task in PATHS} == UNFINISHED
    some = [run for run in results.runs if (run.variant, run.learning_rate) == ("lora", 1e-2)]
    results.runs.remove(some[0])
    assert loop.skipped(Job("lora", "GSM8K"), study, results) == ""


def test_the_runs_are_those_of_the_recipe_with_the_fields_of_a_variant():
    study = methods.study("m", PATHS, (*METHODS, *CHOICES))
    task = study.task("GSM8K")
    for variant in study.variants:
        config = commonsense.get_config(variant.method)
        config.model.update(path="m", remat="none")
        fields = {"max_prompt": 160, "max_response": 192, "append_eos": True, "path": "g.json"}
        config.data.update(fields)
        config.method.update(variant.settings())
        if "seed" in config.method:
            config.method.seed = 0
        config.optim.update(warmup_steps=60, learning_rate=variant.rate)
        config.loop.update(batch_size=32, steps=300)
        assert study.run(variant, task) == parse(config)
    dialogues = study.data(study.task("ConvAI2"))
    assert (dialogues.prompt, dialogues.bos, dialogues.max_response) == ("convai2", "always", 24)


def test_kinds_of_base_do_not_mix(tmp_path):
    file = tmp_path / "r.jsonl"
    OnBase(file, 300, "fp8").append(RESULTS[0])
    OnBase(file, 300, "none").append(RESULTS[1])
    assert [run.variant for run in Results(file).runs] == ["lora quantize=fp8", "lora"]
    for kind, rate in (("none", 3e-3), ("fp8", 1e-3), ("nf4", None)):
        found = OnBase(file, 300, kind).of("lora", "T")
        assert [run.learning_rate for run in found] == ([] if rate is None else [rate])
    assert on_base(BASE, "fp8") == "base quantize=fp8"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only", "lorra"], "['lorra'] are none of"),
        (["--model=m"], "--gsm8k is missing"),
        (["--model=m", "--gsm8k=g"], "--convai2 is missing"),
        ([], "--model is missing"),
    ],
)
def test_flags_that_do_not_fit_are_refused(more, message, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["methods", f"--output={tmp_path / 'r.jsonl'}", *more])
    with pytest.raises(SystemExit):
        methods.main()
    assert message in capsys.readouterr().err


@pytest.mark.long
def test_a_quantised_base_is_named_and_has_losses_of_its_own(tiny_llama, tmp_path):
    path = tmp_path / "r.json"
    records = [{"instruction": f"{i}?", "output": f"it is {i % 3}"} for i in range(20)]
    path.write_text(json.dumps(records))
    for kind in ("none", "fp8"):
        (lora,) = variants(["lora:rank=4"])
        study = methods.study(str(tiny_llama), {"GSM8K": str(path)}, [lora], kind)
        task = study.task("GSM8K")
        object.__setattr__(task, "train", "[:12]")
        object.__setattr__(task, "validation", "[12:16]")
        object.__setattr__(task, "test", "[16:]")
        object.__setattr__(study.config, "steps", 4)
        (examples,) = loop.read(study).values()
        assert [len(part) for part in examples] == [12, 4, 4]
        config = study.run(lora, task)
        base = trainer.load(config.model)
        results = OnBase(tmp_path / "r.jsonl", 4, kind)
        with trainer.in_mesh(base):
            made = trainer.Trainer(base, config, examples, lora.name, "T")
            results.append(made.untrained()._replace(variant=BASE))
            results.append(made(1e-2, 0, 4))
    found = Results(tmp_path / "r.jsonl").runs
    names = ["base", "lora rank=4", "base quantize=fp8", "lora rank=4 quantize=fp8"]
    assert [run.variant for run in found] == names
    assert len({run.test for run in found}) == 4
    lines = table(found, names).splitlines()
    assert [line.split(" |")[0] for line in lines[2:]] == [
        "| base",
        "| `lora rank=4`",
        "| `base quantize=fp8`",
        "| `lora rank=4 quantize=fp8`",
    ]
