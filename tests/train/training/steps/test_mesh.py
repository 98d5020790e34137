"""Any mesh of the 8 devices trains like one device, and gathers one layer at a time."""

import functools
import itertools
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tera_jax import adapt, sharding
from tera_jax.adapters.base import Adapter
from tera_jax.llama import Llama, LlamaConfig, stacking
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.methods import TABLE
from tera_jax.network import cost_model
from tests.marks import quick_only
from train.config import OptimConfig
from train.data import Batch
from train.params.plan import gathered
from train.training.optim import optimizer
from train.training.steps import loss
from train.training.steps import step as steps

MESHES = [
    (data, fsdp, 8 // data // fsdp)
    for data in (1, 2, 4, 8)
    for fsdp in (1, 2, 4, 8)
    if data * fsdp <= 8
]
WITH_EACH = [sizes for sizes in MESHES if sizes.count(1) == 2 or sizes == (2, 2, 2)]
"""Each axis alone, and all three: with every method. Two axes are with one method each."""
CASES = [
    *itertools.product(("tera", "lora", "full"), WITH_EACH),
    *zip(itertools.cycle(["full", "tera", "lora"]), sorted({*MESHES} - {*WITH_EACH})),
]
SETTINGS = {"tera": {"num_modes": 2}, "lora": {"rank": 4}, "full": {}}
STRUCTURED = {"num_modes": 2, "structure": "hadamard"}
STEPS, ROWS, LENGTH = 20, 8, 12
CONFIG = LlamaConfig.from_hf(
    {
        "model_type": "llama",
        "vocab_size": 40,
        "hidden_size": 80,  # more than a narrow factor has
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
)
MODEL = Llama(CONFIG)


class Trainer(NamedTuple):
    """A method on a mesh: its state, and its step with what the step reads."""

    mesh: jax.sharding.Mesh
    adapter: Adapter
    state: steps.State
    params: dict
    frozen: dict
    step: object

    @property
    def compiled(self):
        with jax.set_mesh(self.mesh):
            given = (self.state, self.params, self.frozen, place(batches()[0], self.mesh))
            return self.step.lower(*given).compile()


@functools.cache
def base():
    """On the host, so that no mesh compiles its own."""
    tokens = jnp.zeros((1, 4), jnp.int32)
    return jax.device_get(jax.jit(MODEL.init)(jax.random.key(0), tokens))["params"]


@functools.cache
def adapted(method):
    """The adapter, and on the host what it draws and starts from."""
    config = TABLE[method](**SETTINGS[method])
    adapter = adapt(MODEL, jnp.zeros((1, 4), jnp.int32), method=method, config=config)
    frozen = jax.jit(adapter.init_frozen)(base())
    optimizer_ = optimizer(OptimConfig(learning_rate=1e-2, warmup_steps=2), STEPS)
    init = jax.jit(lambda *base: steps.init_state(adapter.init_d(*base, seed=0), optimizer_))
    return adapter, optimizer_, *jax.device_get((frozen, init(base(), frozen)))


def trainer(method, *sizes, unroll=False, kept_layers=0):
    mesh = sharding.make_mesh(*sizes)
    adapter, optimizer_, frozen, state = adapted(method)
    params = jax.device_put(base(), parameter_shardings(base(), mesh))
    frozen = jax.device_put(frozen, sharding.frozen_shardings(frozen, mesh))
    state = jax.device_put(state, steps.state_shardings(state, adapter, optimizer_, mesh))
    if unroll:
        params = stacking.split(params)
    # Rematerialised layers are gathered anew in the backward pass.
    model = MODEL.clone(unroll=unroll, remat="dots" if unroll else "none")
    step = steps.make_train_step(
        model, adapter, optimizer_, mesh, params, state, kept_layers=kept_layers
    )
    return Trainer(mesh, adapter, state, params, frozen, step)


@functools.cache
def batches():
    rng = np.random.default_rng(0)
    shape = (ROWS, LENGTH)
    target_positions_BT = np.tile(np.arange(4, 8, dtype=np.int32), (ROWS, 1))
    return [
        Batch(
            rng.integers(0, CONFIG.vocab_size, shape, np.int32),
            target_positions_BT,
            rng.integers(0, CONFIG.vocab_size, target_positions_BT.shape, np.int32),
            np.ones(target_positions_BT.shape, np.float32),
        )
        for _ in range(4)
    ]


def place(batch, mesh):
    return jax.device_put(batch, sharding.rows(mesh))


def curve(trainer, moved=0):
    """The losses of all steps, on batches in turn, from number ``moved`` on."""
    state, losses = trainer.state, []
    with jax.set_mesh(trainer.mesh):
        fed = [place(batch, trainer.mesh) for batch in batches()]
        for step in range(STEPS):
            batch = fed[(step + moved) % len(fed)]
            state, metrics = trainer.step(state, trainer.params, trainer.frozen, batch)
            losses.append(metrics.loss)
    assert trainer.step._cache_size() == 1
    return np.array(jax.device_get(losses))


@functools.cache
def alone(method):
    """On one device, of which the step serves all curves."""
    return trainer(method)


@functools.cache
def on_one_device(method, moved=0):
    one = alone(method)
    state = jax.device_put(adapted(method)[-1], jax.tree.map(lambda v: v.sharding, one.state))
    return curve(one._replace(state=state), moved)


def test_ten_meshes_multiply_to_eight():
    assert len(MESHES) == 10
    assert {math.prod(sizes) for sizes in MESHES} == {8}
    assert {sizes for _, sizes in CASES} == {*MESHES}


@pytest.mark.parametrize(
    ("method", "sizes"),
    quick_only([("tera", (2, 2, 2))], CASES, names=2),
    ids=lambda value: value if isinstance(value, str) else "x".join(map(str, value)),
)
def test_every_mesh_has_the_loss_curve_of_one_device(method, sizes):
    losses = curve(trainer(method, *sizes))
    np.testing.assert_allclose(losses, on_one_device(method), rtol=5e-6)
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize(
    "sizes", quick_only([(2, 2, 2)], [(2, 2, 2), (1, 8, 1)]), ids=["2x2x2", "1x8x1"]
)
@pytest.mark.parametrize("route", quick_only(["project"], ["project", "through"]))
def test_a_structured_network_has_the_loss_curve_of_one_device(route, sizes, monkeypatch):
    monkeypatch.setitem(SETTINGS, "tera", STRUCTURED)
    monkeypatch.setattr(cost_model, "route", lambda *_: route)
    adapted.cache_clear()
    try:
        losses, alone = (curve(trainer("tera", *mesh)) for mesh in (sizes, ()))
    finally:
        adapted.cache_clear()
    np.testing.assert_allclose(losses, alone, rtol=5e-6)
    assert losses[-1] < losses[0] - 0.1


def test_the_curve_of_other_batches_differs():
    other = on_one_device("tera", moved=1)
    assert np.abs(other / on_one_device("tera") - 1).max() > 1e-3


def test_a_frozen_network_that_is_split_has_the_same_loss_curve(monkeypatch):
    monkeypatch.setattr(sharding, "REPLICATED_BYTES", 4000)
    many = trainer("tera", 2, 4, 1)
    split = [leaf for leaf in jax.tree.leaves(many.frozen) if leaf.nbytes > 4000]
    assert split
    for leaf in split:
        assert leaf.addressable_shards[0].data.nbytes == leaf.nbytes // 4
    np.testing.assert_allclose(curve(many), on_one_device("tera"), rtol=5e-6)


@pytest.mark.parametrize("method", quick_only([], ["tera", "full"]))
def test_unrolled_layers_have_the_same_loss_curve(method):
    losses = curve(trainer(method, 2, 2, 2, unroll=True))
    np.testing.assert_allclose(losses, on_one_device(method), rtol=5e-6)


def num_gathers(trainer):
    return len(re.findall(r" all-gather(?:-start)?\(", trainer.compiled.as_text()))


def test_kept_layers_have_the_same_loss_curve_and_are_gathered_once():
    none, two = (trainer("lora", 2, 4, 1, unroll=True, kept_layers=kept) for kept in (0, 2))
    np.testing.assert_allclose(curve(two), on_one_device("lora"), rtol=5e-6)
    # seven kernels of each of two layers, of which the forward pass still gathers each
    assert num_gathers(none) - num_gathers(two) == 14


def stacked(params):
    """Of the kernels of all layers, each with the layers in front."""
    return {leaf.shape for leaf in jax.tree.leaves(params["layers"]) if leaf.ndim == 3}


def whole(text, params):
    """Gathered arrays that hold as much as the kernels of all layers, however they are shaped."""
    least = min(map(math.prod, stacked(params)))
    return {shape for shape in gathered(text) if math.prod(shape) >= least}


@pytest.mark.parametrize("unroll", [False, True], ids=["scan", "unrolled"])
@pytest.mark.parametrize("method", quick_only(["tera"], ["tera", "lora"]))
def test_a_step_gathers_no_kernel_beyond_one_layer(method, unroll):
    sharded = trainer(method, 1, 8, 1, unroll=unroll)
    shapes = gathered(text := sharded.compiled.as_text())
    assert not whole(text, base())
    # It is gathered, a layer at a time.
    assert {shape[1:] for shape in stacked(base())} <= shapes | {shape[::-1] for shape in shapes}


def logits_gathered(monkeypatch=None):
    """Arrays with the vocabulary as an axis that a step on ``fsdp=8`` gathers, beside the head."""
    if monkeypatch:
        monkeypatch.setattr(loss, "with_whole_head", dict)
        monkeypatch.setattr(loss, "split_rows", lambda gradient: gradient)
    shapes = gathered(trainer("lora", 1, 8, 1).compiled.as_text())
    vocab, hidden = CONFIG.vocab_size, CONFIG.hidden_size
    return {shape for shape in shapes if vocab in shape} - {(hidden, vocab), (vocab, hidden)}


def test_the_loss_gathers_the_head_and_no_logits(monkeypatch):
    assert not logits_gathered()
    assert logits_gathered(monkeypatch)


def test_chunks_of_logits_are_of_the_memory_of_one_device():
    one = loss.chunk_size(4, 1000, 2**18)
    assert one == 63  # 16 chunks of up to 64
    assert loss.chunk_size(32, 1000, 2**18) < one
    with jax.set_mesh(sharding.make_mesh(2, 4, 1)):
        assert loss.chunk_size(32, 1000, 2**18) == one
    with jax.set_mesh(sharding.make_mesh(2, 2, 2)):
        assert loss.chunk_size(32, 1000, 2**18) < one


def test_a_kernel_that_is_gathered_whole_is_seen():
    sharded = trainer("tera", 1, 8, 1)
    kernel = sharded.params["layers"]["mlp"]["up_proj"]["kernel"]
    everywhere = sharding.replicated(sharded.mesh)

    @jax.jit
    def forced(kernel):
        return jnp.sin(jax.lax.with_sharding_constraint(kernel, everywhere))

    text = forced.lower(kernel).compile().as_text()
    assert whole(text, base()) == {kernel.shape}
    assert kernel.sharding.spec == P(None, "fsdp", "tensor")


def test_a_replicated_base_gathers_nothing():
    assert gathered(trainer("tera", 8, 1, 1).compiled.as_text()) == set()
