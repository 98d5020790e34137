"""Options of optimizer and loop through the real loop: a stopped run goes on to the same bits."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from train import data
from train.config import default, parse
from train.data import records
from train.training import optim, stops
from train.training import run as runs
from train.training.checkpoint import Checkpoints
from train.training.loop import fit, held_out_loss
from train.training.steps.step import make_eval_step
from train.training.workdir import init_workdir

STEPS, EVERY = 12, 2
COMBINATIONS = {
    "lion, wsd, average, groups, patience": (
        {
            "optimizer": "lion",
            "schedule": "wsd",
            "decay_shape": "sqrt",
            "decay_steps": 9,
            "ema_decay": 0.9,
            "rate_factors": ("v_proj=0.25", "lora/b=2"),
        },
        # Every later loss is above the first less 10, so that the third evaluation ends it.
        {"patience": 2, "min_delta": 10.0},
        3 * EVERY,
    ),
    "sgd, linear, average, clip": (
        {"optimizer": "sgd", "ema_decay": 0.8, "clip_norm": 0.5, "momentum": 0.5},
        {"patience": 99},
        STEPS,
    ),
    "adamw, wsd, decay mask, groups": (
        {
            "schedule": "wsd",
            "decay_shape": "cosine",
            "weight_decay": 0.3,
            "weight_decay_mask": ("lora/a",),
            "rate_factors": ("layers/*/q_proj=3",),
        },
        {},
        STEPS,
    ),
}


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def made(tiny_llama, records_path):
    """A run of LoRA, and its data."""
    from tests.train.conftest import make_config

    config = make_config(tiny_llama, records_path)
    config.method = {**default("lora").method.to_dict(), "rank": 2}
    config.loop.update(steps=STEPS, eval_every=EVERY, log_every=1)
    config.optim.update(warmup_steps=2, learning_rate=1e-2)
    config.evaluate.path = None
    run = runs.build(parse(config))
    parts = records.split(run.config.data)
    return run, [data.tokenize(part, run.tokenizer, run.config.data) for part in parts]


def with_options(run, optim=None, loop=None):
    config = dataclasses.replace(
        run.config,
        optim=dataclasses.replace(run.config.optim, **(optim or {})),
        loop=dataclasses.replace(run.config.loop, **(loop or {})),
    )
    return run._replace(config=config, meta=run.meta._replace(config=runs.to_dict(config)))


def train(run, parts, workdir, monkeypatch, kill_at=None):
    """The last state, and the steps that this start took."""
    init_workdir(workdir, run.config)
    feed, taken = data.DataIterator.__next__, []

    def fed(stream):
        step = stream.position // stream.batch_size + 1
        if step == kill_at:
            raise KilledError
        taken.append(step)
        return feed(stream)

    with monkeypatch.context() as patch, jax.set_mesh(run.mesh):
        patch.setattr(data.DataIterator, "__next__", fed)
        fit(run, workdir, *parts)
    with Checkpoints(workdir) as checkpoints:
        like = runs.abstract_state(run, optim.optimizer(run.config.optim, 1))
        state, _ = checkpoints.restore(checkpoints.whole, like, run.meta)
    return jax.device_get(state), taken


@pytest.mark.long
@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_stopped_run_goes_on_to_the_same_bits(made, tmp_path, monkeypatch, name):
    of_optim, of_loop, last = COMBINATIONS[name]
    run, parts = made[0], made[1]
    run = with_options(run, of_optim, of_loop)
    whole, taken = train(run, parts, tmp_path / "whole", monkeypatch)
    assert taken == [*range(1, last + 1)]
    with pytest.raises(KilledError):
        train(run, parts, tmp_path / "cut", monkeypatch, kill_at=last)
    again, taken = train(run, parts, tmp_path / "cut", monkeypatch)
    assert taken == [*range(last - EVERY + 1, last + 1)]
    assert len(jax.tree.leaves(whole)) == len(jax.tree.leaves(again))
    for a, b in zip(*map(jax.tree.leaves, (whole, again)), strict=True):
        assert a.tobytes() == b.tobytes()
    assert int(whole.step) == last
    lines = [(tmp_path / each / "metrics.jsonl").read_text() for each in ("whole", "cut")]
    losses = [
        [row["held_out_loss"] for row in map(json.loads, text.splitlines()) if len(row) == 2]
        for text in lines
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == last // EVERY
    # A finished run is read again, and not trained.
    assert train(run, parts, tmp_path / "cut", monkeypatch)[1] == []

    if run.config.optim.ema_decay is not None:
        require_averaged(run, parts[1], tmp_path / "whole", losses[0])


def require_averaged(run, valid, workdir, losses):
    """The average is what was measured and what is restored; the trained d is another."""
    step, d = runs.restore_best(run, workdir)
    with Checkpoints(workdir) as checkpoints:
        like = runs.abstract_state(run, optim.optimizer(run.config.optim, 1))
        state, _ = checkpoints.restore(step, like, run.meta)
    for a, b in zip(*map(jax.tree.leaves, (d, state.opt[-1].average)), strict=True):
        assert np.array_equal(a, b)
    with jax.set_mesh(run.mesh):
        measure = make_eval_step(run.model, run.adapter, run.mesh, run.params)
        assert held_out_loss(run, measure, d, valid) == losses[step // EVERY - 1]
        assert held_out_loss(run, measure, state.d, valid) != losses[step // EVERY - 1]


@pytest.mark.long
def test_a_streamed_run_goes_on_to_the_bits_of_one_in_memory(made, tmp_path, monkeypatch):
    """Stopped in the middle, where it reads its records anew."""
    run = with_options(made[0], loop={"steps": 8, "checkpoint_every": 1})

    def prepared(streaming):
        config = dataclasses.replace(run.config.data, streaming=streaming)
        found = data.prepare(config, run.tokenizer, directory=tmp_path)
        return found.train, found.held_out

    whole, taken = train(run, prepared(False), tmp_path / "whole", monkeypatch)
    with pytest.raises(KilledError):
        train(run, prepared(True), tmp_path / "cut", monkeypatch, kill_at=6)
    again, rest = train(run, prepared(True), tmp_path / "cut", monkeypatch)
    assert (taken, rest) == ([*range(1, 9)], [6, 7, 8])
    for a, b in zip(*map(jax.tree.leaves, (whole, again)), strict=True):
        assert a.tobytes() == b.tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]


@pytest.mark.parametrize(
    ("min_delta", "losses", "over"),
    [
        (0.0, [3.0, 2.0, 2.0, 2.5], [False, False, False, True]),
        (0.0, [3.0, 3.1, 2.9, 3.0, 2.9], [False, False, False, False, True]),
        (0.5, [3.0, 2.6, 2.4, 2.0, 2.0], [False, False, False, False, True]),
        (0.5, [3.0, 2.6, 2.51], [False, False, True]),
    ],
)
def test_patience_counts_evaluations_that_are_not_better(min_delta, losses, over):
    """From a checkpoint after any evaluation too."""
    patience = stops.Patience(2, min_delta)
    for loss, expected in zip(losses, over, strict=True):
        resumed = stops.Patience(2, min_delta)
        resumed.go_on(json.loads(json.dumps(patience.to_json())))
        for each in (patience, resumed):
            each.add(loss)
            assert each.is_over == expected


def test_without_patience_no_loss_ends_a_run_and_nothing_is_kept():
    patience = stops.Patience(None, 0.0)
    for _ in range(9):
        patience.add(1.0)
    assert not patience.is_over
    assert patience.to_json() == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_delta": 0.1}, r"config.loop.min_delta is 0.1, but patience is None"),
        ({"patience": 0}, r"config.loop.patience is 0; it must be at least 1"),
        ({"loggers": ("jsonl", "mlflow")}, r"config.loop.loggers has 'mlflow'; choose from jsonl"),
        ({"loggers": ("tensorboard",)}, r"config.loop.loggers is .*'jsonl' among them"),
        ({"loggers": ("jsonl", "jsonl")}, r"config.loop.loggers is .*name each once"),
    ],
)
def test_wrong_options_are_refused(fields, message):
    tree = default("lora").to_dict()
    tree["model"]["path"], tree["data"]["path"] = "some/model", "records.json"
    tree["loop"].update(fields)
    with pytest.raises(ValueError, match=message):
        parse(tree)


@pytest.mark.long
def test_patience_needs_held_out_records(made, tmp_path):
    run = with_options(made[0], loop={"patience": 2})
    with pytest.raises(ValueError, match=r"there are no held-out records; check config\.data"):
        fit(run, tmp_path, made[1][0], [])
