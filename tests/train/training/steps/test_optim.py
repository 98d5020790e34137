"""The optimizer against torch's AdamW under the schedules of transformers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from tests.margins import close, roundings
from train.config import OptimConfig
from train.training.optim import optimizer, schedule

STEPS = 40


def test_the_rate_is_zero_then_the_highest_then_zero():
    rate = schedule(OptimConfig(learning_rate=0.4, warmup_steps=10), STEPS)
    assert rate(0) == 0
    assert rate(10) == jnp.float32(0.4)
    assert rate(STEPS) == 0
    assert 0 < rate(1) < rate(9) < rate(10) > rate(11) > rate(STEPS - 1) > 0


@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_a_constant_rate_is_that_of_transformers(warmup):
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    theirs = get_constant_schedule_with_warmup(sgd, warmup)
    rate = schedule(OptimConfig(0.4, warmup, schedule="constant"), STEPS)
    for count in range(STEPS):
        assert float(rate(count)) == pytest.approx(sgd.param_groups[0]["lr"], rel=1e-6)
        sgd.step()
        theirs.step()


THEIRS = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("warmup", [0, 1, 10, STEPS])
def test_every_rate_is_that_of_transformers(warmup, name):
    parameter = torch.nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([parameter], lr=0.4)
    theirs = THEIRS[name](sgd, warmup, STEPS)
    config = OptimConfig(0.4, warmup, schedule=name)
    rate = schedule(config, STEPS)
    expected, found = [], []
    for count in range(STEPS):
        expected.append(theirs.get_last_lr()[0])
        found.append(float(rate(count)))
        sgd.step()
        theirs.step()
    close(found, expected, rtol=0, atol=0.4 * roundings(jnp.float32, 4))
    late = schedule(dataclasses.replace(config, warmup_steps=warmup + 2), STEPS + 2)
    late = [float(late(i)) for i in range(STEPS)]
    assert not np.allclose(late, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("clip_norm", [None, 1.5])
@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_updates_are_those_of_torch(clip_norm, weight_decay):
    """In float64, on gradients whose norm is now above 1.5 and now below."""
    random = np.random.default_rng(0)
    shapes = {"a": (3, 4), "b": (5,)}
    start = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    gradients = [
        {name: scale * random.standard_normal(shape) for name, shape in shapes.items()}
        for scale in (1.0, 0.1, 2.0, 0.2, 1.0, 0.5)
    ]
    fields = {"b1": 0.8, "b2": 0.95, "eps": 1e-2, "clip_norm": clip_norm}
    settings = OptimConfig(0.1, warmup_steps=2, weight_decay=weight_decay, **fields)

    theirs = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in start.items()}
    adamw = torch.optim.AdamW(
        theirs.values(), lr=0.1, betas=(0.8, 0.95), eps=1e-2, weight_decay=weight_decay
    )
    warmup = get_linear_schedule_with_warmup(adamw, 2, len(gradients))
    for gradient in gradients:
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradient[name])
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
        adamw.step()
        warmup.step()

    def trained(settings):
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            transformation = optimizer(settings, len(gradients))
            d = {name: jnp.asarray(array) for name, array in start.items()}
            state = transformation.init(d)
            for gradient in gradients:
                updates, state = transformation.update(gradient, state, d)
                d = optax.apply_updates(d, updates)
        return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(d)])

    expected = np.concatenate([p.detach().numpy().ravel() for p in theirs.values()])
    # torch adds 1e-6 to the norm by which it divides.
    close(trained(settings), expected, rtol=0, atol=1e-6)
    other = OptimConfig(0.1, warmup_steps=2, weight_decay=weight_decay + 0.05, **fields)
    assert not np.allclose(trained(other), expected, rtol=0, atol=1e-4)
