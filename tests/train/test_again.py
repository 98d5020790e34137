"""A finished run that is logged, evaluated and exported otherwise, or made longer."""

import json
import os

import jax
import pytest

from tera_jax import load_adapter
from tests.faults import scene as scenes
from train.training import run as runs
from train.training.checkpoint import Checkpoints
from train.training.workdir import saved_config

SHORT = {"steps": 4, "eval_every": 2, "checkpoint_every": None, "log_every": 1}


@pytest.fixture(scope="module")
def scene(tiny_llama, records_path, tmp_path_factory):
    directory = tmp_path_factory.mktemp("again")
    return directory, scenes.make_config(directory, tiny_llama, records_path)


def last_d(config, workdir):
    run = runs.build(config)
    with Checkpoints(workdir) as checkpoints:
        step = checkpoints.whole
        like, _ = runs.init_train_state(run, step)
        state, _ = checkpoints.restore(step, like, run.meta)
    return run, step, jax.device_get(state.d)


@pytest.mark.long
def test_a_finished_run_may_be_logged_evaluated_and_exported_otherwise(
    scene, records_path, tmp_path
):
    directory, config = scene
    workdir = tmp_path / "run"
    evaluate = {"path": str(records_path), "limit": 2, "batch_size": 8}
    few = {"max_new_tokens": 2}
    scenes.command(directory, workdir, loop=SHORT, evaluate=evaluate, decoding=few)
    _, step, before = last_d(config, workdir)
    log = (workdir / "metrics.jsonl").read_text()
    scenes.command(
        directory,
        workdir,
        loop={**SHORT, "log_every": 2},
        evaluate={**evaluate, "limit": 3},
        decoding=few,
        export=("adapter",),
    )
    run, again, after = last_d(config, workdir)
    assert again == step == 4
    scenes.require_equal(after, before)
    assert (workdir / "metrics.jsonl").read_text() == log
    summary = json.loads((workdir / "evaluation/commonsense/summary.json").read_text())
    assert summary["examples"] == 3
    assert len(os.listdir(workdir / "earlier")) == 2  # of step 0 and of the best
    assert saved_config(workdir)["evaluate"]["limit"] == 3
    load_adapter(workdir / "adapter", run.params)
    with pytest.raises(FileExistsError, match=r"loop.seed: 0 -> 1"):
        scenes.command(directory, workdir, loop={**SHORT, "seed": 1})


@pytest.mark.long
def test_a_run_under_a_constant_schedule_is_made_longer_to_the_same_bits(scene, tmp_path):
    directory, config = scene
    constant = {"optim": {"schedule": "constant", "warmup_steps": 1}}
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    for steps, export in ((3, ("adapter",)), (6, ("adapter",))):
        scenes.command(directory, grown, loop={**SHORT, "steps": steps}, export=export, **constant)
    scenes.command(directory, whole, loop={**SHORT, "steps": 6}, **constant)
    run, step, found = last_d(config, grown)
    _, _, expected = last_d(config, whole)
    assert step == 6
    scenes.require_equal(found, expected)
    _, best = runs.restore_best(run, grown)
    _, exported = load_adapter(grown / "adapter", run.params)
    scenes.require_equal(jax.device_get(exported["d"]), jax.device_get(best))
    lines = map(json.loads, (grown / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    linear = {"optim": {"warmup_steps": 1}}
    scenes.command(directory, tmp_path / "decayed", loop={**SHORT, "steps": 6}, **linear)
    _, _, other = last_d(config, tmp_path / "decayed")
    with pytest.raises(AssertionError):
        scenes.require_equal(found, other)
