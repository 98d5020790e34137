"""An engine's answers are those of each adapter alone, whatever else happens meanwhile."""

import functools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.serve.engine import Engine
from tera_jax.serve.requests import (
    BusyError,
    ClosedError,
    InvalidRequestError,
    Token,
    UnknownAdapterError,
)
from tera_jax.serve.requests import Engine as Protocol
from tests.tera_jax.serve.engines import (
    CONFIG,
    Client,
    Gate,
    arrays,
    drawn,
    expected,
    filled,
    kind,
    prompts,
)

COUNT = 24
COMPILED = []


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with filled(tmp_path_factory.mktemp("engine") / "s", COUNT) as made:
        yield made


@pytest.fixture(scope="module")
def engine(store):
    jax.monitoring.register_event_duration_secs_listener(count)
    model, _, base, *_ = kind()
    made = Engine.of_store(model, base["params"], store, CONFIG)
    yield made
    made.close(drain=False)


def count(event, *_, **__):
    if event.endswith(("jaxpr_trace_duration", "backend_compile_duration")):
        COMPILED.append(event)


def test_tokens_are_those_of_each_adapter_alone(engine):
    """24 adapters and the base in 4 slots, greedy, beside rows that sample; nothing is compiled."""
    given = prompts(COUNT + 1)
    names = [f"n{seed}" for seed in range(COUNT)] + [None]
    before = len(COMPILED), engine.stats()
    clients = [Client(engine, *each) for each in zip(given, names, strict=True)]
    others = [Client(engine, given[0], "n0", temperature=2.0, seed=seed) for seed in (5, 5, 2**40)]
    wanted = Client(engine, given[1], "n1", logprobs=3, echo=2)
    ends = [client.wait() for client in clients]
    samples = [client.tokens for client in others]
    assert wanted.tokens == clients[1].tokens
    assert len(COMPILED) == before[0]
    found = [client.tokens for client in clients]
    seeds = [*range(COUNT), None]
    right = [expected(seed, prompt) for seed, prompt in zip(seeds, given, strict=True)]
    assert found == right
    assert {end.reason for end in ends} == {"stop", "length"}
    assert all(
        (end.adapter_version is None) == (name is None)
        for end, name in zip(ends, names, strict=True)
    )
    wrong = [expected(seed, prompt) for seed, prompt in zip(seeds[::-1], given, strict=True)]
    assert sum(a == b for a, b in zip(right, wrong, strict=True)) < COUNT / 2
    assert samples[0] == samples[1] not in (samples[2], right[0])
    after = engine.stats()
    assert after.requests - before[1].requests == COUNT + 5
    assert after.store_misses == COUNT
    assert (after.active, after.waiting) == (0, 0)


def test_log_probabilities_are_those_of_the_model(engine):
    model, adapter, base, *_ = kind()
    prompt = [20, 21, 22, 23]
    client = Client(engine, prompt, "n3", logprobs=3, echo=2, ignore_eos=True, max_tokens=6)
    echo = client.wait().prompt_logprobs
    text = jnp.asarray([[*prompt, *client.tokens]])
    d = jax.tree.map(jnp.asarray, drawn(3))
    apply = jax.jit(functools.partial(adapter.apply, model))
    logits_1LV, _ = apply({**base, "d": d}, text)
    logp_LV = np.asarray(jax.nn.log_softmax(logits_1LV[0]))
    found = [*echo, *client.events[:-1]]
    assert echo[0] == Token(prompt[0])
    for place, token in enumerate(found[1:]):
        order = np.argsort(-logp_LV[place])[: 2 if place < 3 else 3]
        assert token.id == text[0, place + 1]
        assert [other for other, _ in token.top] == order.tolist()
        np.testing.assert_allclose(token.logprob, logp_LV[place, token.id], atol=2e-5)
        np.testing.assert_allclose([p for _, p in token.top], logp_LV[place, order], atol=2e-5)
    alone = Client(engine, prompt, "n3", echo=0, max_tokens=0)
    assert alone.wait().reason == "length"
    assert alone.tokens == []
    assert [t.logprob for t in alone.wait().prompt_logprobs] == [t.logprob for t in echo]


@pytest.mark.parametrize("tokens", [1, 4])
def test_no_step_is_started_for_what_is_to_end(engine, tokens):
    before = engine.stats().steps
    Client(engine, [20, 21], "n1", max_tokens=tokens, ignore_eos=True).wait()
    while (now := engine.stats()).active:
        pass
    assert now.steps - before == tokens - 1


def test_an_answer_ends_with_the_adapter_that_it_began_with(engine, store):
    prompt, old = [30, 31], store.version("n5")

    def replace(client, event):
        if len(client.events) == 1:  # the engine waits meanwhile
            store.put("n5", arrays(105))

    client = Client(engine, prompt, "n5", replace)
    assert client.tokens == expected(5, prompt)
    assert client.wait().adapter_version == old
    again = Client(engine, prompt, "n5")
    assert again.tokens == expected(105, prompt) != expected(5, prompt)
    assert again.wait().adapter_version == store.version("n5") != old
    store.put("n5", arrays(5))


def test_requests_that_cannot_be_answered_are_refused(engine, store):
    assert isinstance(engine, Protocol)
    assert (engine.slots, engine.max_length, engine.vocabulary) == (4, 24, 64)
    assert engine.adapters("n22", 9) == ["n23", "n3", "n4", "n5", "n6", "n7", "n8", "n9"]
    with pytest.raises(UnknownAdapterError, match="no adapter 'nobody'"):
        Client(engine, [20], "nobody")
    for prompt, fields, message in (
        ([20] * 24, {}, "tokens has 24, .* has room for 24 of both together; send at most 23"),
        ([20] * 25, {"max_tokens": 0}, "send at most 24"),
        ([64], {}, "have 64, but the vocabulary has ids from 0 to 63"),
        ([20], {"stop_ids": (99,)}, "have 99, but the vocabulary"),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            Client(engine, prompt, **fields)
    assert len(Client(engine, [20] * 23, ignore_eos=True).tokens) == 1
    assert engine.stats().waiting == 0


def test_a_damaged_record_fails_its_own_request_alone(engine, store):
    store.put("bad", arrays(50))
    with open(store.directory / "shards" / "000000.bin", "r+b") as file:
        data = file.read()
        row = np.concatenate([v.ravel() for _, v in sorted(arrays(50).items())]).tobytes()
        file.seek(data.index(row))
        file.write(b"x")
    failed = engine.stats().failed
    bad, good = Client(engine, [20], "bad"), Client(engine, [20], "n2")
    assert bad.wait().reason == "error"
    assert "is damaged" in bad.wait().message
    assert good.tokens == expected(2, [20])
    assert engine.stats().failed == failed + 1
    store.delete("bad")


def test_an_adapter_that_is_taken_out_while_its_request_waits_is_unknown(
    engine, store, monkeypatch
):
    store.put("gone", arrays(51))
    load = engine._source.load

    def taken_out(name):
        store.delete(name)
        return load(name)

    monkeypatch.setattr(engine._source, "load", taken_out)
    found = Client(engine, [20], "gone").wait()
    assert found.reason == "unknown_adapter"
    assert "no adapter 'gone'" in found.message


def test_a_full_queue_says_no_and_cancelled_requests_leave(engine):
    gate = Gate()
    first = Client(engine, [20], "n0", gate, ignore_eos=True)
    gate.wait()
    waiting = [Client(engine, [21], "n1") for _ in range(CONFIG.queue)]
    with pytest.raises(BusyError, match="1024 requests wait already"):
        Client(engine, [21])
    for client in waiting[1:]:
        client.ticket.cancel()
        client.ticket.cancel()
    gate.open()
    assert first.wait().reason == "length"
    assert waiting[0].tokens == expected(1, [21])
    assert {client.wait().reason for client in waiting[1:]} == {"cancelled"}

    def leave(client, event):
        if len(client.events) == 3:
            client.ticket.cancel()

    running = Client(engine, [20], "n0", leave, ignore_eos=True)
    assert running.wait().reason == "cancelled"
    assert 3 <= len(running.tokens) < 14
    assert engine.stats().active == 0


def test_a_slot_that_is_used_again_is_clean(engine):
    """The same request has the same log-probabilities to the bit after others in all slots."""
    fields = {"logprobs": 3, "max_tokens": 6, "ignore_eos": True}
    first = Client(engine, [33, 34], "n7", **fields)
    first.wait()
    for client in [Client(engine, [20] * 8, f"n{i}", ignore_eos=True) for i in range(8)]:
        client.wait()
    again = Client(engine, [33, 34], "n7", **fields)
    assert again.wait() == first.wait()
    assert again.events == first.events
    other = Client(engine, [33, 35], "n7", **fields)
    other.wait()
    assert other.events != first.events


def test_prompts_that_wait_are_read_together(engine, monkeypatch):
    """Of unlike lengths and adapters, greedy, sampled and with scores."""
    admit, sizes = engine._device.admit, []

    def watched(begun, scored):
        sizes.append(len(begun))
        return admit(begun, scored)

    monkeypatch.setattr(engine._device, "admit", watched)
    gate = Gate()
    Client(engine, [20], "n0", gate, max_tokens=1)
    gate.wait()
    given, fields = prompts(9, 5), {"ignore_eos": True, "max_tokens": 5}
    kinds = [{}, {"logprobs": 2}, {"temperature": 2.0, "seed": 3}]
    clients = [
        Client(engine, prompt, f"n{number}" if number % 4 else None, **fields, **kinds[number % 3])
        for number, prompt in enumerate(given)
    ]
    for answer in [*engine._waiting._answers]:
        if answer.load is not None:  # what is not loaded yet would be begun later
            answer.load.result(60)
    gate.open()
    for client in clients:
        client.wait()
    assert sizes == [1, 4, 4, 1]
    for number, client in enumerate(clients):
        name = f"n{number}" if number % 4 else None
        alone = Client(engine, given[number], name, **fields, **kinds[number % 3])
        assert alone.tokens == client.tokens
        np.testing.assert_allclose(
            [event.logprob or 0 for event in alone.events[:-1]],
            [event.logprob or 0 for event in client.events[:-1]],
            atol=2e-5,
        )
    assert sizes[4:] == [1] * 9
    assert len({tuple(client.tokens) for client in clients}) == 9


def test_a_step_that_fails_ends_what_is_in_slots_and_no_more(engine, monkeypatch):
    step, failures = engine._device.step, [RuntimeError("no device")]

    def fail(*given):
        if failures:
            raise failures.pop()
        return step(*given)

    monkeypatch.setattr(engine._device, "step", fail)
    end = Client(engine, [20], "n0").wait()
    assert (end.reason, end.message) == ("error", "the step failed: no device")
    assert Client(engine, [20], "n0").tokens == expected(0, [20])


def test_slots_that_are_lost_with_a_request_are_made_again(engine, monkeypatch):
    admit, failures = engine._device.admit, [RuntimeError("no room")]

    def lose(*given):
        if failures:
            jax.tree.map(lambda leaf: leaf.delete(), engine._device._state)
            raise failures.pop()
        return admit(*given)

    monkeypatch.setattr(engine._device, "admit", lose)
    end = Client(engine, [20], "n0").wait()
    assert (end.reason, end.message) == ("error", "no room")
    assert Client(engine, [20], "n0").tokens == expected(0, [20])


def test_what_was_taken_with_a_request_that_loses_the_slots_is_answered(engine, monkeypatch):
    """Of two groups that are begun in one turn the first fails, and an answer runs beside them."""
    admit, failures = engine._device.admit, []

    def lose(begun, scored):
        if failures:
            jax.tree.map(lambda leaf: leaf.delete(), engine._device._state)
            raise failures.pop()
        return admit(begun, scored)

    monkeypatch.setattr(engine._device, "admit", lose)
    gate = Gate()
    running = Client(engine, [22], None, gate, ignore_eos=True)
    gate.wait()
    failures.append(RuntimeError("no room"))
    first, second = (Client(engine, [20, n]) for n in (20, 21))  # groups of 1: 3 slots are free
    silent = Client(engine, [20], max_tokens=0)
    gate.open()
    assert first.wait().message == "no room"
    assert running.wait().message == "the step failed: no room"
    assert second.tokens == expected(None, [20, 21])
    assert silent.wait().reason in ("length", "error")
    assert not engine._scheduler.taken


def test_no_turn_is_made_while_there_is_nothing_to_do(engine, store, monkeypatch):
    """At rest, and while a request waits for an adapter that comes late."""
    turns, turn, arrived = [], engine._scheduler.turn, threading.Event()
    load = engine._source.load

    def late(name):
        assert arrived.wait(60)
        return load(name)

    Client(engine, [20], max_tokens=1).wait()  # after all turns of earlier requests
    monkeypatch.setattr(engine._scheduler, "turn", lambda last: turns.append(1) or turn(last))
    monkeypatch.setattr(engine._source, "load", late)
    store.put("late", arrays(7))
    waits = Client(engine, [20, 21], "late", max_tokens=3, ignore_eos=True)
    Client(engine, [20, 21], max_tokens=3, ignore_eos=True).wait()
    while engine.stats().active or len(turns) < 3:
        time.sleep(0.001)
    time.sleep(0.05)
    assert len(turns) == 3  # a prompt and a step, a step, and the tokens of the last one
    arrived.set()
    waits.wait()
    assert len(waits.tokens) == 3
    store.delete("late")


def test_an_answer_is_cancelled_after_its_last_step_was_started(engine):
    def leave(client, event):
        client.ticket.cancel()  # in the turn that reads the first of two tokens

    running = Client(engine, [20, 21], "n1", leave, max_tokens=2, ignore_eos=True)
    assert running.wait().reason in ("cancelled", "length")
    assert Client(engine, [20, 21], "n1").tokens == expected(1, [20, 21])
    assert (engine.stats().active, len(engine._scheduler._free)) == (0, CONFIG.slots)


def test_a_listener_that_raises_is_cancelled(engine, caplog):
    def fail(client, event):
        raise OSError("gone")

    Client(engine, [20], "n0", fail, ignore_eos=True)
    assert Client(engine, [20], "n1").tokens == expected(1, [20])
    assert "the listener of request" in caplog.text


def test_an_engine_that_drains_finishes_its_streams(engine):
    """Last, for the engine is closed then."""
    clients = [Client(engine, [20], f"n{seed}") for seed in range(9)]
    engine.close()
    assert [client.tokens for client in clients] == [expected(seed, [20]) for seed in range(9)]
    with pytest.raises(ClosedError, match="has been closed"):
        Client(engine, [20])
