"""Training on packed rows: its loss and gradient are those of padded ones."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.marks import quick_only
from train import data
from train.config import parse
from train.data import records
from train.training import run as runs
from train.training.checkpoint import Checkpoints
from train.training.loop import fit, held_out_loss, to_device
from train.training.steps import loss
from train.training.steps import step as steps


@pytest.fixture
def build(tiny_config):
    """A run, its tokenised records and its first ``d``."""

    def make(method="tera", mesh=None, **loop):
        config = tiny_config
        if method != "tera":
            config = config.copy_and_resolve_references().unlock()
            config.method = {"name": method, "targets": ("q_proj",), "num_virtual_tokens": 5}
        config.data.max_prompt = 120
        config.data.packed_length = 133
        config.mesh.update(mesh or {})
        config.loop.update(loop)
        parsed = parse(config)
        run = runs.build(parsed)
        parts = records.split(parsed.data)
        train, valid = (
            data.tokenize(part, run.tokenizer, parsed.data, run.virtual_tokens) for part in parts
        )
        return run, train, valid

    return make


@pytest.mark.parametrize("method", quick_only(["prompt"], ["tera", "prompt"]))
def test_packed_loss_and_gradient_are_the_padded_ones(build, method):
    run, train, _ = build(method)
    virtual = len(run.virtual_tokens)
    assert virtual == (5 if method == "prompt" else 0)
    padded = data.collate(train[:7], run.config.data, virtual)
    (several,) = data.held_out(train[:7], 3, run.config.data, virtual)
    assert (several.lengths_BM[:, 1] > 0).any()
    d = jax.tree.map(lambda v: v + 0.1, runs.init_d(run))

    @jax.jit
    def value_and_grad(d, batch):
        def nll(d):
            return loss.loss_sum(run.model, run.adapter, run.variables(d), batch).nll

        return jax.value_and_grad(nll)(d)

    expected, found = value_and_grad(d, padded), value_and_grad(d, several)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    close(found[1], expected[1])

    # The second record of a row sees the first.
    first_B1, second_B1, rest_BM = np.split(several.lengths_BM, [1, 2], axis=1)
    joined_BM = np.concatenate([first_B1 + second_B1, rest_BM, 0 * first_B1], axis=1)
    disturbed = value_and_grad(d, several._replace(lengths_BM=joined_BM))
    assert not np.isclose(disturbed[0], expected[0], rtol=1e-4)
    with pytest.raises(AssertionError):
        close(disturbed[1], expected[1])


def close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def trained(run, train):
    """Losses of the steps of one epoch, and how often the step was traced."""
    feed = data.DataIterator(train, run.config.loop.batch_size, 0, run.config.data)
    count = feed.num_steps(1.0)
    state, optimizer = runs.init_train_state(run, count)
    step = steps.make_train_step(run.model, run.adapter, optimizer, run.mesh, run.params, state)
    losses = []
    with jax.set_mesh(run.mesh):
        for _ in range(count):
            state, metrics = step(state, run.params, run.frozen, to_device(next(feed), run))
            losses.append(float(metrics.loss))
    return losses, step._cache_size()


@pytest.mark.long
def test_an_epoch_is_traced_once_and_rows_may_be_sharded(build):
    run, train, _ = build()
    one, traces = trained(run, train)
    assert traces == 1
    assert len(one) < len(train) / 8 / 2
    assert one[-1] < one[0] - 0.5
    run, train, _ = build(mesh={"data": 2, "fsdp": 2, "tensor": 2})
    many, traces = trained(run, train)
    assert traces == 1
    np.testing.assert_allclose(many, one, rtol=2e-5)
    other, _ = trained(run, train[1:])
    assert not np.allclose(other[:3], one[:3], rtol=2e-5)


def test_a_fit_feeds_its_epochs_and_the_held_out_loss_is_the_padded_one(build, tmp_path):
    run, train, valid = build(steps=None, epochs=1.5)
    with jax.set_mesh(run.mesh):
        fit(run, tmp_path, train, valid)
        with Checkpoints(tmp_path) as checkpoints:
            last = checkpoints.latest
            like, _ = runs.init_train_state(run, 1)
            state, meta = checkpoints.restore(last, like, run.meta)
            packed_loss = checkpoints.loss(last)
        assert last == data.DataIterator(train, 8, 0, run.config.data).num_steps(1.5)
        assert len(train) * 1.5 <= meta.position < len(train) * 1.5 + 8 * 4
        padding = dataclasses.replace(run.config.data, packed_length=None)
        padded = run._replace(config=dataclasses.replace(run.config, data=padding))
        eval_step = steps.make_eval_step(run.model, run.adapter, run.mesh, run.params)
        loss = held_out_loss(padded, eval_step, state.d, valid)
    np.testing.assert_allclose(packed_loss, loss, rtol=1e-5)
    assert loss > 0.01
