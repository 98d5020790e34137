"""Callbacks: in a stated order, and one can end the training."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from train import data
from train.config import parse
from train.data import records
from train.training import callbacks
from train.training.checkpoint import Checkpoints
from train.training.loop import fit
from train.training.run import build

STEPS = 6


@pytest.fixture(scope="module")
def train(tiny_llama, records_path):
    """Trains in a directory, told of by callbacks: 6 steps, evaluated at 4 and 6, saved at 3."""
    from tests.train.conftest import make_config

    config = make_config(tiny_llama, records_path)
    config.loop.steps, config.loop.eval_every, config.loop.checkpoint_every = STEPS, 4, 3
    config = parse(config)
    run = build(config)
    parts = [data.tokenize(part, run.tokenizer, config.data) for part in records.split(config.data)]

    def train(workdir, *given):
        with jax.set_mesh(run.mesh):
            fit(run, workdir, *parts, given)

    return train


def told_by(heard, tag=""):
    """A callback that writes down what it hears."""
    return {
        name: lambda event: heard.append((tag + event.name, event.step))
        for name in callbacks.EVENTS
    }


def test_they_are_called_in_the_stated_order_and_the_second_time_from_where_it_ended(
    train, tmp_path
):
    heard = []
    train(tmp_path / "run", told_by(heard), told_by(heard, "2nd "))
    first = [(name, step) for name, step in heard if not name.startswith("2nd")]
    assert first == [
        ("on_start", 0),
        ("on_step", 1),
        ("on_step", 2),
        ("on_step", 3),
        ("on_save", 3),
        ("on_step", 4),
        ("on_eval", 4),
        ("on_save", 4),
        ("on_step", 5),
        ("on_step", 6),
        ("on_eval", 6),
        ("on_save", 6),
        ("on_end", 6),
    ]
    # Both hear of each event, the one that was given first before the other.
    assert heard[::2] == first
    assert heard[1::2] == [(f"2nd {name}", step) for name, step in first]
    heard.clear()
    train(tmp_path / "run", told_by(heard))
    assert heard == [("on_start", STEPS), ("on_end", STEPS)]


def test_they_are_told_what_the_log_has(train, tmp_path):
    events = []

    class Object:
        def on_step(self, event):
            events.append(event)

        def on_eval(self, event):
            events.append(event)

        def on_save(self, event):
            events.append(event)

    train(tmp_path, Object())
    with Checkpoints(tmp_path) as checkpoints:
        saved = checkpoints.loss(STEPS)
    last = {event.name: event for event in events}
    assert last["on_eval"].held_out_loss == last["on_save"].held_out_loss == saved
    assert last["on_save"].checkpoint.is_dir()
    losses = [event.loss for event in events if event.name == "on_step"]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]
    assert {(event.steps, event.workdir) for event in events} == {(STEPS, tmp_path)}


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("on_step", lambda event: event.step == 1, 2),
        ("on_eval", lambda event: np.bool_(True), 4),
        pytest.param("on_start", lambda event: True, 1, marks=pytest.mark.long),
        pytest.param("on_step", lambda event: None, STEPS, marks=pytest.mark.long),
        ("on_step", lambda event: event.loss, STEPS),  # only True ends it
    ],
)
def test_one_that_returns_true_ends_the_training_with_a_checkpoint(
    train, tmp_path, name, answer, expected
):
    heard = []
    train(tmp_path, {name: answer}, told_by(heard))
    assert heard[-3:] == [("on_eval", expected), ("on_save", expected), ("on_end", expected)]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.whole == expected
        assert checkpoints.loss(expected) is not None


def test_an_error_of_a_callback_is_its_own(train, tmp_path):
    def wrong(event):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tmp_path, {"on_step": wrong})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"on_stepp": print}, "the unknown function 'on_stepp'; did you mean on_step"),
        ({"step": print}, "the unknown function 'step'; did you mean on_step"),
        (SimpleNamespace(on_evaluate=print), "the unknown function 'on_evaluate'; did you mean"),
        ({}, "has none of the functions on_start, on_step"),
        (print, "has none of the functions on_start, on_step"),
    ],
)
def test_what_would_never_be_called_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        callbacks.require([given])
