"""What a run gives before and after training, and the two forms of its layers."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.llama import load_tokenizer, stacking
from tests.marks import quick_only
from train import data
from train.config import default, parse
from train.data import records
from train.training import run as runs
from train.training.checkpoint import Checkpoints
from train.training.loop import fit
from train.training.optim import optimizer


def abstract(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def deleted(params):
    return [leaf.is_deleted() for leaf in jax.tree.leaves(params)]


@pytest.mark.parametrize("method", quick_only(["lora"], ["tera", "lora", "full"]))
@pytest.mark.parametrize("mesh", [{}, {"data": 2, "fsdp": 2}], ids=["one", "mesh"])
def test_the_first_d_is_that_of_the_first_state(tiny_config, method, mesh):
    tiny_config.method = {**default(method).method.to_dict()}
    tiny_config.mesh.update(mesh)
    run = runs.build(parse(tiny_config))
    state, made = runs.init_train_state(run, 4)
    d = runs.init_d(run)
    chex.assert_trees_all_equal(d, state.d)
    layouts = [leaf.sharding for leaf in jax.tree.leaves(d)]
    assert layouts == [leaf.sharding for leaf in jax.tree.leaves(state.d)]
    found = runs.abstract_state(run, made)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, state)
    for a, b in zip(*map(jax.tree.leaves, (found, state)), strict=True):
        assert a.sharding.is_equivalent_to(b.sharding, b.ndim)
    if method == "lora":  # A is drawn
        loop = dataclasses.replace(run.config.loop, seed=1)
        other = runs.init_d(run._replace(config=dataclasses.replace(run.config, loop=loop)))
        assert not all(
            jnp.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (d, other)), strict=True)
        )


def test_the_best_d_is_restored_from_shapes_alone(finished):
    run, workdir = finished
    nothing = run._replace(params=abstract(run.params), frozen=abstract(run.frozen))
    step, d = runs.restore_best(nothing, workdir)
    with Checkpoints(workdir) as checkpoints:
        like, _ = runs.init_train_state(run, 1)
        state, _ = checkpoints.restore(step, like, run.meta)
    chex.assert_trees_all_equal(d, state.d)
    assert not any(
        jnp.array_equal(a, b)
        for a, b in zip(*map(jax.tree.leaves, (d, runs.init_d(run))), strict=True)
    )


@pytest.fixture
def built(tiny_config):
    def build(unroll):
        tiny_config.model.unroll = unroll
        tiny_config.loop.update(steps=3, eval_every=3, log_every=1)
        run = runs.build(parse(tiny_config))
        parts = records.split(run.config.data)
        return run, [data.tokenize(part, run.tokenizer, run.config.data) for part in parts]

    return build


@pytest.mark.long
def test_training_leaves_the_arrays_of_its_run(built, tmp_path):
    losses = {}
    for unroll in (False, True):
        run, (train, valid) = built(unroll)
        given, before = run.params, jax.tree.map(np.array, run.params)
        run = runs.unrolled(run)
        assert stacking.is_split(run.params) == run.model.unroll == unroll
        assert any(deleted(given)) == unroll
        workdir = tmp_path / str(unroll)
        workdir.mkdir()
        with jax.set_mesh(run.mesh):
            assert fit(run, workdir, train, valid) is None
        assert not any(deleted(run.params))
        assert not any(deleted(run.frozen))
        lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        losses[unroll] = [line["loss"] for line in lines if "loss" in line]
        split = run.params
        run = runs.rolled(run)
        assert not stacking.is_split(run.params)
        assert any(deleted(split)) == unroll
        chex.assert_trees_all_equal(jax.device_get(run.params), before)
        assert not run.model.unroll
    assert len(losses[True]) == 3
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert losses[True][0] != pytest.approx(losses[True][1], rel=1e-5)


def test_an_unrolled_run_starts_from_the_same_state(built):
    run, _ = built(True)
    expected, _ = runs.init_train_state(run, 3)
    expected = jax.tree.map(np.array, expected)
    run = runs.unrolled(run)
    state, _ = runs.init_train_state(run, 3)
    chex.assert_trees_all_equal(jax.device_get(state), expected)
    chex.assert_trees_all_equal(jax.device_get(runs.init_d(run)), expected.d)
    assert runs.unrolled(run) is run
    assert "trainable parameters" in runs.describe(run)
    assert runs.abstract_state(run, optimizer(run.config.optim, 1)).step.shape == ()


def test_a_given_tokenizer_is_not_loaded_again(tiny_config, monkeypatch):
    config = parse(tiny_config)
    tokenizer = load_tokenizer(config.model.path)
    monkeypatch.setattr(runs, "load_tokenizer", lambda _: pytest.fail("loaded"))
    run = runs.build(config, tokenizer=tokenizer, identities={"config.data.path": "x"})
    assert run.tokenizer is tokenizer
    assert run.meta.data == {"config.data.path": "x"}
