"""Each optimizer and schedule on a toy tree against optax, and against its formula by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.margins import close, roundings
from train.config import OptimConfig
from train.training.optim import optimizer, rates, require_schedule

STEPS, RATE, DECAY = 12, 0.1, 0.3
D = {
    "layers": {
        "q_proj": {"lora": {"a": np.array([[0.5, -1.0, 2.0]]), "b": np.array([0.3])}},
        "v_proj": {"lora": {"a": np.array([[1.5, 0.1, -0.7]]), "b": np.array([-0.4, 0.9])}},
    }
}
DECAYED = {
    "layers": {
        "q_proj": {"lora": {"a": False, "b": True}},
        "v_proj": {"lora": {"a": False, "b": True}},
    }
}
FACTORS = {
    "layers": {
        "q_proj": {"lora": {"a": 1.0, "b": 4.0}},
        "v_proj": {"lora": {"a": 0.5, "b": 0.5}},
    }
}


@functools.cache
def gradients():
    random = np.random.default_rng(0)
    return [jax.tree.map(lambda leaf: random.standard_normal(leaf.shape), D) for _ in range(STEPS)]


def trained(rule):
    """d after each step, in float64."""
    found = []
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        d = jax.tree.map(jnp.asarray, D)
        state, update = rule.init(d), jax.jit(rule.update)
        for gradient in gradients():
            updates, state = update(gradient, state, d)
            d = optax.apply_updates(d, updates)
            found.append(flat(d))
    return np.stack(found)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def by_hand(update, decayed=None, factors=None):
    """d after each step of a rule that is written out, one array at a time."""
    ones = jax.tree.map(lambda _: 1.0, D)
    d, moments = D, jax.tree.map(lambda leaf: np.zeros((2, *leaf.shape)), D)
    found = []
    for step, gradient in enumerate(gradients(), 1):

        def move(d, g, m, on, factor, step=step):
            u = update(g, m, step)
            return d - RATE * factor * (u + DECAY * on * d)

        d = jax.tree.map(move, d, gradient, moments, decayed or ones, factors or ones)
        found.append(flat(d))
    return np.stack(found)


def adamw(g, m, step):
    m[0], m[1] = 0.8 * m[0] + 0.2 * g, 0.95 * m[1] + 0.05 * g**2
    return m[0] / (1 - 0.8**step) / (np.sqrt(m[1] / (1 - 0.95**step)) + 1e-2)


def lion(g, m, step):
    sign = np.sign(0.8 * m[0] + 0.2 * g)
    m[0] = 0.95 * m[0] + 0.05 * g
    return sign


def sgd(g, m, step):
    m[0] = 0.7 * m[0] + g
    return m[0].copy()


def settings(name, **fields):
    given = {"weight_decay": DECAY, "b1": 0.8, "b2": 0.95, "eps": 1e-2, "momentum": 0.7}
    return OptimConfig(RATE, 0, schedule="constant", optimizer=name, **{**given, **fields})


THEIRS = {
    "adamw": lambda mask: optax.adamw(RATE, 0.8, 0.95, 1e-2, weight_decay=DECAY, mask=mask),
    "lion": lambda mask: optax.lion(RATE, 0.8, 0.95, weight_decay=DECAY, mask=mask),
    "sgd": lambda mask: optax.chain(
        optax.trace(0.7), optax.add_decayed_weights(DECAY, mask), optax.scale(-RATE)
    ),
}
RULES = {"adamw": adamw, "lion": lion, "sgd": sgd}


@pytest.mark.parametrize("name", RULES)
def test_each_optimizer_is_optax_and_its_formula(name):
    found = trained(optimizer(settings(name), STEPS))
    close(found, trained(THEIRS[name](None)), rtol=0, atol=1e-14)
    close(found, by_hand(RULES[name]), rtol=0, atol=1e-6)  # rates are float32
    for other in RULES.keys() - {name}:
        assert np.abs(found - by_hand(RULES[other])).max() > 1e-2


@pytest.mark.parametrize("name", RULES)
def test_masks_and_groups_reach_the_arrays_that_they_name(name):
    masked = settings(name, weight_decay_mask=("lora/b",))
    close(trained(optimizer(masked, STEPS)), trained(THEIRS[name](DECAYED)), rtol=0, atol=1e-14)
    grouped = settings(name, weight_decay_mask=("lora/b",), rate_factors=("v_proj=0.5", "b=4"))
    found = trained(optimizer(grouped, STEPS))
    close(found, by_hand(RULES[name], DECAYED, FACTORS), rtol=0, atol=1e-6)
    assert np.abs(found - by_hand(RULES[name], None, FACTORS)).max() > 1e-2
    assert np.abs(found - by_hand(RULES[name], DECAYED)).max() > 1e-2


def test_groups_are_those_of_a_transformation_for_each_label():
    """optax.multi_transform with one SGD a label."""
    found = trained(optimizer(settings("sgd", rate_factors=("v_proj=0.5", "b=4")), STEPS))

    def sgd_at(factor):
        return optax.chain(
            optax.trace(0.7), optax.add_decayed_weights(DECAY), optax.scale(-RATE * factor)
        )

    by_label = {str(factor): sgd_at(factor) for factor in (0.5, 1.0, 4.0)}
    labels = jax.tree.map(str, FACTORS)
    close(found, trained(optax.multi_transform(by_label, labels)), rtol=0, atol=1e-6)


def test_a_factor_of_zero_trains_an_array_not_at_all():
    found = trained(optimizer(settings("lion", rate_factors=("v_proj=0",)), STEPS))[-1]
    assert np.array_equal(found[4:], flat(D)[4:])
    assert not np.any(found[:4] == flat(D)[:4])


def wsd(shape, t, decay):
    x = max(0, t - (STEPS - decay)) / decay
    falls = {"linear": 1 - x, "cosine": (1 + np.cos(np.pi * x)) / 2, "sqrt": 1 - np.sqrt(x)}
    return RATE * min(1, t / 3) * falls[shape]


@pytest.mark.parametrize("shape", ["linear", "cosine", "sqrt"])
@pytest.mark.parametrize("decay", [1, 5, 9])
def test_wsd_warms_up_stays_and_falls(shape, decay):
    config = OptimConfig(RATE, 3, schedule="wsd", decay_steps=decay, decay_shape=shape)
    expected = [wsd(shape, t, decay) for t in range(STEPS)]
    atol = RATE * roundings(jnp.float32, 4)
    close(rates(config, STEPS), expected, rtol=0, atol=atol)
    others = [wsd(shape, t, decay + 1) for t in range(STEPS)]
    assert not np.allclose(rates(config, STEPS), others, rtol=0, atol=1e-3)
    if shape == "linear":
        pieces = [(0.0, RATE, 3), (RATE, RATE, 1), (RATE, 0.0, decay)]
        lines = [optax.linear_schedule(*piece) for piece in pieces]
        theirs = optax.join_schedules(lines, [3, STEPS - decay])
        close(rates(config, STEPS), theirs(np.arange(STEPS)), rtol=0, atol=atol)


def test_wsd_decays_for_a_tenth_where_no_length_is_given():
    found = rates(OptimConfig(RATE, 3, schedule="wsd"), 40)
    assert list(np.flatnonzero(found == np.float32(RATE))) == list(range(3, 37))


def test_wsd_is_refused_where_it_is_longer_than_the_run():
    config = OptimConfig(RATE, 3, schedule="wsd", decay_steps=9)
    require_schedule(config, 12)
    with pytest.raises(ValueError, match=r"warms up for 3 steps and decays for 9, but .* has 11"):
        require_schedule(config, 11)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decay_steps": 3}, "decay_steps is 3, but schedule 'linear' has none"),
        ({"decay_shape": "sqrt"}, "decay_shape is 'sqrt', but schedule 'linear' has none"),
        ({"weight_decay_mask": ("a",)}, "weight_decay_mask is .*, but weight_decay is 0"),
        ({"weight_decay_mask": ("",), "weight_decay": 1.0}, "weight_decay_mask has an empty"),
        ({"rate_factors": ("v_proj",)}, "rate_factors has 'v_proj'; write PATTERN=FACTOR"),
        ({"rate_factors": ("v_proj=-1",)}, "'v_proj=-1'.* factor of at least 0"),
        ({"rate_factors": ("v_proj=fast",)}, "'v_proj=fast'"),
        ({"rate_factors": ("=2",)}, "'=2'"),
        ({"rate_factors": ("b=inf",)}, "rate_factors is inf"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; it must be at least 0 and below 1"),
        ({"momentum": 1.0}, "momentum is 1.0"),
    ],
)
def test_wrong_options_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**fields)
