"""The first steps of a small Llama against gradients and updates taken by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tera_jax import adapt, sharding
from tera_jax.llama import Llama, LlamaConfig
from tera_jax.methods import TABLE
from tests import parts
from tests.margins import close, roundings
from tests.marks import quick_only
from train import data
from train.config import DataConfig, OptimConfig
from train.data import Example
from train.training.optim import optimizer
from train.training.steps import step as steps

MODEL = Llama(LlamaConfig.from_hf(parts.SMALL))
EXAMPLES = [  # 11 targets in rows of unlike lengths
    Example.of([5, 9, 3], [7, 21, 2]),
    Example.of([8, 17, 30], [11]),
    Example.of([1], [60, 61, 62, 63, 2]),
    Example.of([33, 12], [40, 2]),
]
BATCH = data.collate(EXAMPLES, DataConfig("-", max_prompt=4, max_response=5))
MESH = sharding.make_mesh()
LIMIT = roundings(jnp.float32, 2000)
"""Of a gradient: two layers, each a dozen sums of 32 to 64 terms, forward and back."""


@functools.cache
def made(dropout=0.0):
    """LoRA, its variables with a ``d`` that is not what it starts as."""
    params = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    config = TABLE["lora"](rank=4, dropout=dropout)
    adapter = adapt(MODEL, jnp.ones((1, 2), jnp.int32), method="lora", config=config)
    variables, _ = parts.perturbed(adapter, params, np.random.default_rng(0))
    return adapter, variables


@jax.jit
def log_likelihoods(d, params, frozen, tokens_BL):
    adapter, _ = made()
    variables = {"params": params, "frozen": frozen, "d": d}
    return jax.nn.log_softmax(adapter.apply(MODEL, variables, tokens_BL)[0])


def mean_nll(d, examples=EXAMPLES):
    """Of the responses' tokens, each record alone and without padding."""
    _, variables = made()
    total, count = jnp.float32(0), 0
    for prompt, response in ((example.prompt, example.response) for example in examples):
        tokens_BL = jnp.asarray([[*prompt, *response]], jnp.int32)
        logp_BLV = log_likelihoods(d, variables["params"], variables["frozen"], tokens_BL)
        for number, token in enumerate(response, len(prompt)):
            total, count = total - logp_BLV[0, number - 1, token], count + 1
    return total / count


@functools.cache
def by_hand():
    """The mean loss at ``d`` and its gradient."""
    return jax.device_get(jax.value_and_grad(mean_nll)(made()[1]["d"]))


@functools.cache
def jitted(optimizer_, dropout, seed, accumulate):
    adapter, variables = made(dropout)
    state = steps.init_state(variables["d"], optimizer_)
    return steps.make_train_step(
        MODEL, adapter, optimizer_, MESH, variables["params"], state, seed, accumulate
    )


def take(optimizer_, *, count=1, start=0, dropout=0.0, seed=0, accumulate=1):
    """The state and the metrics after some steps, all on the same batch."""
    _, variables = made(dropout)
    state = steps.init_state(jax.tree.map(jnp.copy, variables["d"]), optimizer_)
    state = state._replace(step=jnp.int32(start))
    step = jitted(optimizer_, dropout, seed, accumulate)
    with jax.set_mesh(MESH):
        for _ in range(count):
            state, metrics = step(state, variables["params"], variables["frozen"], BATCH)
    return jax.device_get((state, metrics))


def require_close(found, expected, of=None):
    """Leaf by leaf, to the rounding of a gradient; ``of`` has the sizes of what was summed."""
    of = expected if of is None else of
    for a, b, size in zip(*map(jax.tree.leaves, (found, expected, of)), strict=True):
        close(a, b, rtol=LIMIT, atol=LIMIT * np.abs(size).max())


@pytest.mark.parametrize("parts_of_a_batch", quick_only([1], [1, 2]))
def test_the_gradient_is_that_of_the_mean_over_target_tokens(parts_of_a_batch):
    loss, gradient = by_hand()
    d = jax.device_get(made()[1]["d"])
    state, metrics = take(optax.sgd(1.0), accumulate=parts_of_a_batch)
    close(metrics.loss, loss, rtol=LIMIT)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    close(metrics.grad_norm, norm, rtol=LIMIT)
    require_close(state.d, jax.tree.map(np.subtract, d, gradient))
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(d)))
    close(metrics.d_norm, norm, rtol=LIMIT)
    # Of other targets it is another.
    _, other = jax.value_and_grad(mean_nll)(d, EXAMPLES[:3])
    assert not np.isclose(metrics.grad_norm, optax.tree.norm(other), rtol=1e-3)


def adam(gradient, eps):
    """Adam's update before the rate, where all gradients so far are the same."""
    return jax.tree.map(lambda g: g / (np.abs(g) + eps), gradient)


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_a_step_clips_the_gradient_to_its_norm(share):
    """With an ``eps`` as large as a gradient's entry, so that Adam does not undo the scale."""
    _, gradient = by_hand()
    norm = float(optax.tree.norm(gradient))
    d = jax.device_get(made()[1]["d"])
    eps = 0.5 * norm
    settings = OptimConfig(learning_rate=0.3, warmup_steps=0, eps=eps, clip_norm=share * norm)
    state, metrics = take(optimizer(settings, 10))
    close(metrics.grad_norm, norm, rtol=LIMIT)  # before it is clipped
    clipped = jax.tree.map(lambda g: min(share, 1.0) * g, gradient)
    moved = jax.tree.map(np.subtract, state.d, d)
    expected = jax.tree.map(lambda u: -0.3 * u, adam(clipped, eps))
    require_close(moved, expected, of=d)
    whole = jax.tree.map(lambda u: -0.3 * u, adam(gradient, eps))
    ratio = optax.tree.norm(moved) / optax.tree.norm(whole)
    assert (ratio < 0.9) == (share < 1)


def test_weight_decay_is_decoupled_and_times_the_rate():
    """The first rate of a warm-up is 0, and the second a quarter of the highest."""
    _, gradient = by_hand()
    d = jax.device_get(made()[1]["d"])
    eps = 0.5 * float(optax.tree.norm(gradient))
    settings = OptimConfig(learning_rate=0.4, warmup_steps=4, eps=eps, weight_decay=0.2)
    adamw = optimizer(settings, 10)
    state, _ = take(adamw)
    assert all(map(np.array_equal, *map(jax.tree.leaves, (state.d, d))))
    state, _ = take(adamw, count=2)
    update = adam(gradient, eps)
    require_close(state.d, jax.tree.map(lambda v, u: v - 0.1 * (u + 0.2 * v), d, update))
    without = jax.tree.map(lambda v, u: v - 0.1 * u, d, update)
    with pytest.raises(AssertionError):
        require_close(state.d, without)


def test_each_step_drops_other_entries_by_its_number():
    still = optax.sgd(0.0)

    def loss(**options):
        return float(take(still, dropout=0.5, **options)[1].loss)

    losses = [loss(start=number) for number in range(3)]
    assert len({*losses, loss(seed=1)}) == 4
    assert loss(start=2) == losses[2]
    assert loss(count=3) == losses[2]  # also where the steps before were taken


def test_layers_of_a_stack_start_from_draws_of_their_own():
    adapter, variables = made()
    (d, again, other) = (
        adapter.init_d(variables["params"], variables["frozen"], seed) for seed in (0, 0, 1)
    )
    draws = [
        np.asarray(tree["layers"]["self_attn"][name]["lora"]["a"][layer])
        for tree in (d, other)
        for name in ("q_proj", "v_proj")
        for layer in range(MODEL.config.num_layers)
    ]
    assert len({draw.tobytes() for draw in draws}) == 2 * 2 * 2
    # Nor do they share any entry, or follow from one another by a factor.
    flat = np.stack([draw.ravel() for draw in draws])
    correlation = np.corrcoef(flat) - np.eye(len(draws))
    assert np.abs(correlation).max() < 6 / np.sqrt(flat.shape[1])
    assert all(map(np.array_equal, *map(jax.tree.leaves, (d, again))))
