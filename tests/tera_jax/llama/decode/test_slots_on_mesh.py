"""Slots on a mesh: the tokens are those of one device, and a step moves nothing that is large."""

import re

import chex
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tera_jax import sharding
from tera_jax.llama import stacking
from tera_jax.llama.decode import slots
from tests.marks import quick_only
from tests.tera_jax.llama.decode.served import (
    BATCH,
    SLOTS,
    STOPS,
    alone,
    made,
    requests,
    served,
)

MESHES = ((2, 1, 2), (2, 2, 2), (1, 1, 2), (4, 1, 1), (1, 4, 1))
CASES = [
    *(("tera", False, sizes) for sizes in MESHES),
    *(("dora", True, sizes) for sizes in MESHES),
    *((name, unroll, (2, 2, 2)) for name, unroll in (("tera", True), ("dora", False))),
    *(("lora", unroll, (2, 2, 2)) for unroll in (False, True)),
]
"""Every mesh with a loop over the layers and unrolled, every method with both."""
_MOVED = re.compile(r"= \(?\w+\[([\d,]*)\]\S* (all-gather|all-to-all|collective-permute)")


def on(mesh, kind):
    """The same model, with its base and its adapters on a mesh."""
    model, adapter, base, d, rows = kind
    params = jax.device_put(base["params"], stacking.shardings(base["params"], mesh))
    layout = sharding.frozen_shardings(base["frozen"], mesh)
    frozen = jax.device_put(base["frozen"], layout)
    return (
        model,
        adapter,
        {"params": params, "frozen": frozen},
        d,
        jax.device_put(rows, sharding.replicated(mesh)),
    )


def layout(state):
    return jax.tree.map(lambda leaf: leaf.sharding, state)


@pytest.mark.parametrize(
    ("name", "unroll", "sizes"), quick_only([("tera", False, (2, 1, 2))], CASES, names=3)
)
def test_tokens_are_those_of_one_device_and_every_program_has_one_trace(
    name, unroll, sizes, monkeypatch
):
    kind = made(name, unroll)
    greedy = (name, unroll) == ("tera", False)  # or of three kinds, each of which is compiled
    waiting = list(requests(12))[:: 3 if greedy else 2]
    expected = [alone(kind, *request) for request in waiting]
    model, adapter, *_ = kind
    chex.clear_trace_counter()
    for function in ("prefill", "insert", "step", "evict"):
        once = chex.assert_max_traces(n=1)(getattr(slots, function))
        monkeypatch.setattr(slots, function, once)
    programs, seen = slots.make_programs(model, adapter), []
    mesh = sharding.make_mesh(*sizes)
    with jax.set_mesh(mesh):
        given = on(mesh, kind)
        found = served(
            given,
            waiting,
            np.random.default_rng(1),
            0.1,
            programs,
            lambda s: seen.append(layout(s)),
        )
        first = slots.init_slots(model, adapter, given[-1][0], BATCH, SLOTS, STOPS)
    assert found == expected
    assert len({len(tokens) for tokens in expected}) > 2
    assert len(seen) > 5
    assert all(each == layout(first) for each in seen)  # a step leaves every array where it was
    key = jax.tree.leaves(first.cache.key)[0]
    assert key.sharding.shard_shape(key.shape)[-4:-1] == (
        BATCH // (sizes[0] * sizes[1]),
        SLOTS,
        2 // sizes[2],
    )


@pytest.mark.long
@pytest.mark.parametrize("unroll", [False, True])
def test_a_step_moves_neither_the_cache_nor_the_adapters(unroll):
    """What devices send each other is smaller than one layer's keys of a device."""
    kind = made("tera", unroll)
    model, adapter, *_ = kind
    mesh, batch, size = sharding.make_mesh(2, 1, 2), 8, 512
    programs = slots.make_programs(model, adapter)
    with jax.set_mesh(mesh):
        _, _, base, _, rows = on(mesh, kind)
        state = slots.init_slots(model, adapter, rows[0], batch, size, STOPS)
        step = programs.step.lower(base, state, sampling=True).compile()
        elsewhere = jax.device_put(state, sharding.replicated(mesh))
        key = NamedSharding(mesh, P(*[None] * (3 - unroll), "data"))  # heads over the data axis
        elsewhere = elsewhere._replace(
            cache=elsewhere.cache._replace(key=jax.device_put(state.cache.key, key))
        )
        other = programs.step.lower(base, elsewhere, sampling=True).compile()
    own = batch // 2 * size * model.config.head_dim
    assert moved(step) < own / 8
    assert moved(other) >= own


def moved(compiled):
    """Numbers of the largest array that devices send each other."""
    found = _MOVED.findall(compiled.as_text())
    return max(
        (int(np.prod([int(n) for n in shape.split(",") if n])) for shape, _ in found), default=0
    )


def test_slots_that_the_mesh_does_not_divide_are_refused():
    model, adapter, _, _, rows = made("lora")
    with (
        jax.set_mesh(sharding.make_mesh(2, 2, 1)),
        pytest.raises(ValueError, match="6 slots do not split over the 4 parts"),
    ):
        slots.init_slots(model, adapter, rows[0], 6, SLOTS, STOPS)
