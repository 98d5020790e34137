"""The study of methods: its search, its table, and that its runs are those of the trainer."""

import json
import math

import jax
import pytest

from benchmarks import methods
from benchmarks.methods import Task, Trainer
from benchmarks.study import GRID, Result, chosen, climb, load_results, table
from benchmarks.variants import CHOICES, METHODS, Variant
from train import data
from train.training import run as runs
from train.training.loop import held_out_loss, to_device
from train.training.step import make_eval_step, make_train_step


@pytest.mark.parametrize("best", [GRID[1], 1e-3, 3e-2, GRID[-2]])
@pytest.mark.parametrize("start", [1e-4, 1e-1])
def test_the_climb_ends_where_both_neighbours_are_worse(best, start):
    assert climb(lambda rate: abs(math.log(rate / best)), start) == best


def test_a_climb_that_leaves_the_grid_is_an_error():
    with pytest.raises(ValueError, match=r"best learning rate 30\.0 is at an end of the grid"):
        climb(lambda rate: -rate, 1e-1)


def result(variant, rate, seed, validation, test):
    return Result(variant, "T", rate, seed, validation, test, 1234, 0.05, "GPU")


RESULTS = [
    result("lora", 1e-3, 0, 2.0, 2.5),
    result("lora", 3e-3, 0, 1.0, 9.0),
    result("lora", 1e-2, 0, 3.0, 0.5),
    result("lora", 3e-3, 1, 5.0, 7.0),
]


def test_the_rate_is_chosen_by_the_validation_loss_of_the_first_seed():
    assert [found.test for found in chosen(RESULTS)] == [9.0, 7.0]
    assert chosen(RESULTS[3:]) == []


def test_the_table_has_means_and_spreads_of_the_test_loss():
    assert (
        table(RESULTS, ["base", "lora"]).splitlines()[2]
        == "| `lora` | 1,234 | 3e-03 | 8.0000 ± 1.4142 | 50.0 |"
    )


@pytest.fixture(scope="module")
def base(tiny_llama):
    return methods.load(str(tiny_llama))


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A file of records in three parts, for runs of four steps of two."""
    for name, value in (("STEPS", 4), ("WARMUP", 1), ("BATCH", 2), ("SKIPPED", 1)):
        monkeypatch.setattr(methods, name, value)
    path = tmp_path / "r.json"
    records = [{"instruction": f"{i}?", "output": f"it is {i % 3}"} for i in range(20)]
    path.write_text(json.dumps(records))
    fields = {"max_prompt": 40, "max_response": 6}
    return Task("T", f"{path}[:12]", f"{path}[12:16]", f"{path}[16:]", fields)


LORA = Variant("lora", 1e-2, {"rank": 4})


@pytest.mark.long
def test_a_run_is_that_of_the_trainer(base, task):
    examples = methods.read(base, task)
    assert [len(part) for part in examples] == [12, 4, 4]
    found = Trainer(base, LORA, task, examples)(learning_rate=1e-2, seed=0)

    run = methods.make_run(base, LORA, task, seed=0)
    config = run.config
    object.__setattr__(config.optim, "learning_rate", 1e-2)
    state, optimizer = runs.init_train_state(run, steps=4)
    step = make_train_step(run.model, run.adapter, optimizer, run.mesh, run.params, state)
    stream = data.DataIterator(examples.train, 2, 0, config.data)
    for _ in range(4):
        state, _ = step(state, run.params, run.frozen, to_device(next(stream), run))
    evaluate = make_eval_step(run.model, run.adapter, run.mesh, run.params)
    expected = held_out_loss(run, evaluate, state.d, examples.test)
    assert found.test == pytest.approx(expected, rel=1e-3)
    assert found.trained == sum(leaf.size for leaf in jax.tree.leaves(state.d))


def test_learning_rate_and_seed_count_and_compile_once(base, task):
    trainer = Trainer(base, LORA, task, methods.read(base, task))
    runs_ = [trainer(rate, seed) for rate, seed in ((1e-2, 0), (1e-1, 0), (1e-1, 1), (1e-2, 0))]
    assert len({found.test for found in runs_}) == 3
    assert runs_[0].test == runs_[3].test
    assert trainer._step._cache_size() == 1


def test_a_study_goes_on_where_it_stopped(base, task, tmp_path, capsys):
    output = tmp_path / "r.jsonl"
    examples = methods.read(base, task)
    other = Variant("hira", 1e-2, {"rank": 99})  # above the kernels: fails
    assert methods.study(base, task, examples, [other, LORA], output) == ["hira rank=99 on T"]
    first = load_results(output)
    assert {found.seed for found in first} == {0, 1, 2}
    assert first[0].variant == "base"
    output.write_text("".join(output.read_text().splitlines(keepends=True)[:-1]))
    capsys.readouterr()
    methods.study(base, task, examples, [LORA], output)
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert load_results(output)[-1].test == first[-1].test


@pytest.mark.long
def test_a_quantised_base_is_named_and_has_losses_of_its_own(base, task, tiny_llama):
    found = []
    for each in (base, methods.load(str(tiny_llama), "fp8")):
        trainer = Trainer(each, LORA, task, methods.read(each, task))
        found += [trainer.untrained(), trainer(1e-2, 0)]
    names = ["base", "lora rank=4", "base quantize=fp8", "lora rank=4 quantize=fp8"]
    assert [result.variant for result in found] == names
    assert len({result.test for result in found}) == 4
    lines = table(found, names).splitlines()
    assert [line.split(" |")[0] for line in lines[2:]] == [
        "| base",
        "| `lora rank=4`",
        "| `base quantize=fp8`",
        "| `lora rank=4 quantize=fp8`",
    ]


def test_variants_have_names_of_their_own():
    names = [variant.name for variant in (*METHODS, *CHOICES)]
    assert len(set(names)) == len(names)
    assert "tera structure=hadamard init=orthogonal" in names


def test_a_variant_may_name_its_targets(base, task):
    variant = Variant("lora", 1e-2, {"rank": 4, "targets": ("v_proj", "o_proj")})
    assert variant.name == "lora rank=4 targets=v_proj+o_proj"
    for each, targets in ((variant, {"v_proj", "o_proj"}), (LORA, {"q_proj", "v_proj"})):
        run = methods.make_run(base, each, task, seed=0)
        assert {site.path[-1] for site in run.adapter.layers} == targets
