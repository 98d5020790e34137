"""Engines for longer, on meshes, of bases and of single adapters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import sharding
from tera_jax.llama import GenerationConfig
from tera_jax.llama.decode.generate import generate, left_pad
from tera_jax.serve.engine import Engine
from tera_jax.serve.engine.slot_device import SlotDevice
from tera_jax.serve.requests import ClosedError
from tests.tera_jax.llama.decode.served import BUCKET, EOS, LONGEST, made
from tests.tera_jax.llama.decode.test_slots_on_mesh import on
from tests.tera_jax.serve.engines import (
    BUCKETED,
    CONFIG,
    Client,
    Gate,
    drawn,
    expected,
    filled,
    kind,
    prompts,
)

pytestmark = pytest.mark.long


def test_200_requests_at_once_over_200_adapters(tmp_path):
    """By merged weights, with little memory, while others come and are cancelled."""
    count, draw = 200, np.random.default_rng(0)
    model, adapter, base, *_ = kind()
    config = dataclasses.replace(BUCKETED, slots=32, host_bytes=20_000, device_bytes=5_000)
    with filled(tmp_path / "s", count) as store:
        engine = Engine.of_store(model, base["params"], store, config)
    given, clients, gone = prompts(count, 3), [], []
    for seed, prompt in enumerate(given):
        clients.append(Client(engine, prompt, f"n{seed}"))
        if draw.random() < 0.5:
            last = int(draw.integers(0, 10))
            leaving = Client(
                engine,
                prompt,
                f"n{int(draw.integers(0, count))}",
                lambda client, event, last=last: (
                    len(client.events) > last and client.ticket.cancel()
                ),
                ignore_eos=True,
            )
            gone.append(leaving)
            if draw.random() < 0.3:
                leaving.ticket.cancel()
    found = [client.tokens for client in clients]
    reasons = [client.wait().reason for client in gone]
    stats = engine.stats()
    engine.close()
    assert {*reasons} == {"cancelled"}
    assert stats.host_bytes <= 20_000
    assert stats.cancelled == len(gone)

    @jax.jit
    def alone(d, tokens_1L, segments_1L):
        params = adapter.merge({**base, "d": d})
        decoding = GenerationConfig(max_new_tokens=LONGEST)
        given = {"eos_id": EOS, "pad_id": 0}
        return generate(model, {"params": params}, tokens_1L, segments_1L, decoding, **given)

    def right(seed, prompt):
        new = np.asarray(alone(drawn(seed), *left_pad([prompt], 0, BUCKET)))[0].tolist()
        return new[: min([LONGEST, *(n for n, token in enumerate(new) if token in EOS)])]

    assert found == [right(seed, prompt) for seed, prompt in enumerate(given)]
    others = [right((seed + 1) % count, prompt) for seed, prompt in enumerate(given)]
    assert sum(a == b for a, b in zip(found, others, strict=True)) < count / 2


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("sizes", [(2, 1, 1), (1, 2, 1), (1, 1, 2)])
def test_tokens_on_a_mesh_are_those_of_one_device(tmp_path, unroll, sizes):
    mesh = sharding.make_mesh(*sizes)
    with jax.set_mesh(mesh):
        model, _, base, *_ = on(mesh, kind(unroll))
    compiled = []
    with filled(tmp_path / "s", 9) as store:
        engine = Engine.of_store(model, base["params"], store, CONFIG, mesh)

    def count(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    given = prompts(9)
    clients = [
        Client(engine, prompt, f"n{seed}", logprobs=1 if seed == 4 else None)
        for seed, prompt in enumerate(given)
    ]
    clients.append(Client(engine, given[0]))
    found = [client.tokens for client in clients]
    engine.close()
    jax.monitoring.unregister_event_duration_listener(count)
    assert not compiled
    assert found[:-1] == [expected(seed, prompt) for seed, prompt in enumerate(given)]
    assert found[-1] == expected(None, given[0])


def test_one_adapter_and_the_base_alone():
    model, adapter, base, *_ = kind()
    variables = {**base, "d": jax.tree.map(jnp.asarray, drawn(3))}
    one = Engine.of_adapter(model, adapter, variables, "mine", BUCKETED)
    bare = Engine.of_base(model, base["params"], BUCKETED)
    prompt = [20, 21]
    assert one.adapters() == ["mine"]
    assert bare.adapters() == []
    assert Client(one, prompt, "mine").tokens == expected(3, prompt)
    assert Client(one, prompt, "mine").wait().adapter_version is None
    right = expected(None, prompt)
    assert Client(one, prompt).tokens == Client(bare, prompt).tokens == right
    assert right != expected(3, prompt)
    assert len(Client(bare, prompt, logprobs=1, echo=1).wait().prompt_logprobs) == 2
    one.close()
    bare.close(drain=False)


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_other_methods(name):
    """DoRA's rows are prepared with the kernels."""
    model, adapter, base, d, _ = made(name)
    engine = Engine.of_adapter(model, adapter, {**base, "d": d[0]}, "mine", CONFIG)
    from tests.tera_jax.llama.decode.served import alone

    prompt, key = [20, 21, 22], jax.random.key(0)
    decoding = GenerationConfig(max_new_tokens=LONGEST)
    new = alone((model, adapter, base, d, None), 1, prompt, decoding, key)
    assert Client(engine, prompt, "mine").tokens == [token for token in new if token not in EOS]
    engine.close()


def test_an_engine_that_does_not_drain_cancels():
    model, _, base, *_ = kind()
    engine = Engine.of_base(model, base["params"], CONFIG)
    started = []
    clients = [
        Client(engine, [20], None, lambda c, e: started.append(c), ignore_eos=True)
        for _ in range(200)
    ]
    while not started:
        pass
    engine.close(drain=False)
    reasons = [client.wait().reason for client in clients]
    assert reasons.count("cancelled") > 100
    assert {*reasons} <= {"cancelled", "length"}


def test_an_engine_that_stops_ends_what_it_has_taken(monkeypatch):
    """No memory for new slots: one in a slot, two that were to begin, and one that waits."""
    monkeypatch.setattr(SlotDevice, "warm", lambda _: None)
    model, _, base, *_ = kind()
    config = dataclasses.replace(CONFIG, slots=2, prefills=2)
    engine = Engine.of_base(model, base["params"], config)
    gate = Gate()

    def fail(*_):
        raise RuntimeError("no memory")

    clients = [Client(engine, [20], None, gate, ignore_eos=True)]
    gate.wait()
    monkeypatch.setattr(SlotDevice, "admit", fail)
    monkeypatch.setattr(SlotDevice, "is_lost", True)
    monkeypatch.setattr(SlotDevice, "reset", fail)
    clients += [Client(engine, [20] * count) for count in (1, 2, 3)]
    assert not engine.closed
    gate.open()
    assert {client.wait().reason for client in clients} == {"error"}
    with pytest.raises(ClosedError):
        Client(engine, [20])
    assert engine.closed
    engine.close()


def test_one_adapter_stays_on_the_device_however_large_it_is(monkeypatch):
    monkeypatch.setattr(SlotDevice, "warm", lambda _: None)
    placed, place = [], SlotDevice.place
    monkeypatch.setattr(SlotDevice, "place", lambda *given: placed.append(1) or place(*given))
    model, adapter, base, *_ = kind()
    variables = {**base, "d": jax.tree.map(jnp.asarray, drawn(3))}
    config = dataclasses.replace(CONFIG, device_bytes=0)
    engine = Engine.of_adapter(model, adapter, variables, "mine", config)
    before = len(placed)
    for _ in range(3):
        assert Client(engine, [20, 21], "mine").tokens == expected(3, [20, 21])
    assert len(placed) == before + 1
    engine.close()
