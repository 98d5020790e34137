"""Rows in slots, admitted and evicted as it comes: the tokens are those of ``generate`` alone."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import adapt
from tera_jax.adapters.bank import make_bank
from tera_jax.llama import GenerationConfig, Llama, LlamaConfig
from tera_jax.llama.decode import slots
from tera_jax.llama.decode.config import filtered
from tera_jax.llama.decode.generate import generate, left_pad
from tera_jax.llama.decode.sampling import Settings, settings
from tera_jax.llama.decode.sampling import filtered as filtered_rows
from tera_jax.methods import TABLE
from tests.marks import quick_only
from tests.parts import SMALL

CONFIG = LlamaConfig.from_hf(SMALL)
BATCH, SLOTS, BUCKET, STOPS = 4, 24, 8, 2
EOS = (7, 11)
LONGEST = 14
KINDS = (
    GenerationConfig(),
    GenerationConfig(do_sample=True, temperature=1.3, top_k=20),
    GenerationConfig(do_sample=True, temperature=0.7, top_p=0.8),
)


@functools.cache
def made(name="lora", unroll=False, **changes):
    """Model, adapter, base, three d and the rows of them."""
    config = LlamaConfig.from_hf({**SMALL, **changes})
    model = Llama(config, unroll=unroll)
    params = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: p + jnp.asarray(0.2 * random.standard_normal(p.shape), p.dtype), params
    )
    fields = {"lora": {"rank": 4}, "dora": {"rank": 4}, "tera": {"num_modes": 2}}[name]
    adapter = adapt(model, jnp.ones((1, 2), jnp.int32), method=name, config=TABLE[name](**fields))
    frozen = jax.jit(adapter.init_frozen)(params)
    first = adapter.init_d(params, frozen)
    d = [
        jax.tree.map(
            lambda v: v + jnp.asarray(0.3 * random.standard_normal(v.shape), v.dtype), first
        )
        for _ in range(3)
    ]
    bank = make_bank(adapter, params, frozen, d)
    rows = [bank.row(entry) for entry in range(bank.size)]
    return model, adapter, {"params": params, "frozen": frozen}, d, rows


def requests(count, seed=0):
    """(adapter's entry, prompt, decoding, key) of unlike requests."""
    random = np.random.default_rng(seed)
    for number in range(count):
        limit = int(random.integers(1, LONGEST + 1))
        decoding = dataclasses.replace(KINDS[number % len(KINDS)], max_new_tokens=limit)
        prompt = random.integers(12, 64, int(random.integers(1, BUCKET + 1))).tolist()
        yield int(random.integers(0, 4)), prompt, decoding, jax.random.key(number)


@functools.cache
def offline(model, adapter, decoding):
    apply = model.apply if adapter is None else functools.partial(adapter.apply, model)
    return jax.jit(
        functools.partial(generate, model, decoding=decoding, eos_id=EOS, pad_id=0, apply=apply)
    )


def alone(kind, entry, prompt, decoding, key):
    """The tokens of one request by ``generate``."""
    model, adapter, base, d, _ = kind
    variables = {**base, "d": d[entry - 1]} if entry else {"params": base["params"]}
    longest = dataclasses.replace(decoding, max_new_tokens=LONGEST)
    run = offline(model, adapter if entry else None, longest)
    found = np.asarray(run(variables, *left_pad([prompt], 0, BUCKET), key_B=key[None]))[0]
    ends = [i + 1 for i, token in enumerate(found) if token in EOS]
    return found[: min([decoding.max_new_tokens, *ends])].tolist()


def padded(prompt):
    return jnp.asarray([prompt + [0] * (BUCKET - len(prompt))], jnp.int32)


def admit(programs, state, kind, slot, request):
    _, _, base, _, rows = kind
    entry, prompt, decoding, key = request
    begun = programs.prefill(base, rows[entry], padded(prompt), jnp.int32(len(prompt)))
    given = settings(decoding, key, EOS, STOPS)
    return programs.insert(state, jnp.int32(slot), rows[entry], begun, given)


def served(kind, waiting, random, evict=0.0):
    """Tokens of each request; some are evicted on the way, and begun again later."""
    model, adapter, base, _, rows = kind
    programs = slots.make_programs(model, adapter)
    state = slots.init_slots(model, adapter, rows[0], BATCH, SLOTS, STOPS)
    waiting, running, done = list(enumerate(waiting)), {}, {}
    while waiting or running:
        for slot in random.permutation(BATCH).tolist():
            if slot not in running and waiting and random.random() < 0.7:
                number, request = waiting.pop(0)
                state, token = admit(programs, state, kind, slot, request)
                running[slot] = (number, request, [int(token)])
        for slot in list(running):
            number, request, tokens = running[slot]
            if not state.active_B[slot]:
                done[number] = tokens
                del running[slot]
            elif random.random() < evict:
                state = programs.evict(state, jnp.int32(slot))
                waiting.append((number, request))
                del running[slot]
        state, new_B = programs.step(base, state, sampling=True)
        for slot, (_, _, tokens) in running.items():
            if int(new_B[slot]) != slots.NO_TOKEN:
                tokens.append(int(new_B[slot]))
        idle = sorted(set(range(BATCH)) - set(running))
        assert all(int(new_B[slot]) == slots.NO_TOKEN for slot in idle)
    return [done[number] for number in sorted(done)]


@pytest.mark.parametrize(
    ("name", "unroll"),
    quick_only([("tera", True)], [("lora", False), ("tera", True), ("dora", True)], names=2),
)
def test_tokens_are_those_of_each_request_alone(name, unroll):
    kind = made(name, unroll)
    waiting = list(requests(7))
    found = served(kind, waiting, np.random.default_rng(1), evict=0.05)
    expected = [alone(kind, *request) for request in waiting]
    assert found == expected
    # Another adapter, key or filter gives other tokens.
    others = [((entry + 1) % 4, *rest) for entry, *rest in waiting]
    assert [alone(kind, *request) for request in others] != expected
    assert len({len(tokens) for tokens in expected}) > 3


@pytest.mark.long
def test_a_sliding_window_is_each_rows_own():
    kind = made(model_type="mistral", sliding_window=4, tie_word_embeddings=True)
    waiting = list(requests(4))
    expected = [alone(kind, *request) for request in waiting]
    assert served(kind, waiting, np.random.default_rng(1)) == expected


@pytest.mark.parametrize("unroll", quick_only([True], [False, True]))
def test_a_slot_that_is_used_again_is_clean(unroll):
    """The same request gives the same bits in a fresh slot and in one that held a longer text."""
    kind = made("lora", unroll)
    model, adapter, base, _, rows = kind
    programs = slots.make_programs(model, adapter)
    long = (1, list(range(20, 28)), GenerationConfig(max_new_tokens=16), jax.random.key(0))
    short = (2, [30, 31], GenerationConfig(max_new_tokens=6), jax.random.key(1))

    def run(before):
        state = slots.init_slots(model, adapter, rows[0], BATCH, SLOTS, STOPS)
        for request in before:
            state, _ = admit(programs, state, kind, 2, request)
            for _ in range(12):
                state, _ = programs.step(base, state)
            state = programs.evict(state, jnp.int32(2))
        state, token = admit(programs, state, kind, 2, short)
        found = [token]
        for _ in range(5):
            state, new_B = programs.step(base, state)
            found.append(new_B[2])
        return [int(token) for token in found], state

    (fresh, a), (again, b) = run([]), run([long])
    assert fresh == again == alone(kind, *short)
    at = slice(0, 2)
    for one, two in zip(*(jax.tree.leaves(s.cache.key) for s in (a, b)), strict=True):
        one, two = (np.asarray(x).reshape(-1, *x.shape[-4:])[:, 2, at] for x in (one, two))
        np.testing.assert_array_equal(one, two)
    assert not state_equal(a, b)  # what lies behind its end is another's


def state_equal(a, b):
    leaves = zip(jax.tree.leaves(a.cache.key), jax.tree.leaves(b.cache.key), strict=True)
    return all(bool(jnp.array_equal(x, y)) for x, y in leaves)


def test_a_thousand_admissions_are_one_trace():
    kind = made()
    model, adapter, base, _, rows = kind
    chex.clear_trace_counter()
    once = chex.assert_max_traces(n=1)

    @functools.partial(jax.jit, donate_argnums=1)
    @once
    def step(base, state):
        return slots.step(model, adapter, base, state, sampling=True)

    @functools.partial(jax.jit, donate_argnums=0)
    @once
    def insert(state, *rest):
        return slots.insert(adapter, state, *rest)

    state = slots.init_slots(model, adapter, rows[0], BATCH, SLOTS, STOPS)
    programs = slots.make_programs(model, adapter)
    several = list(requests(10))
    begun = [
        programs.prefill(base, rows[entry], padded(prompt), jnp.int32(len(prompt)))
        for entry, prompt, *_ in several
    ]
    given = [settings(decoding, key, EOS, STOPS) for _, _, decoding, key in several]
    for number in range(1000):
        n = number % 10
        slot = jnp.int32(number % BATCH)
        state, token = insert(state, slot, rows[several[n][0]], begun[n], given[n])
        if number % 50 == 0:
            state, _ = step(base, state)
    assert int(token) >= 0
    with pytest.raises(AssertionError, match="traced > 1 times"):
        step(base, state._replace(token_B=state.token_B.astype(jnp.int8)))


def test_a_full_slot_ends_its_row():
    kind = made()
    prompt = list(range(20, 20 + BUCKET))
    model, adapter, base, _, rows = kind
    programs = slots.make_programs(model, adapter)
    state = slots.init_slots(model, adapter, rows[0], BATCH, 12, 1)
    begun = programs.prefill(base, rows[1], padded(prompt), jnp.int32(BUCKET))
    decoding = GenerationConfig(max_new_tokens=100)
    given = settings(decoding, jax.random.key(0), (), 1)
    state, _ = programs.insert(state, jnp.int32(0), rows[1], begun, given)
    count = 1
    while bool(state.active_B[0]):
        state, _ = programs.step(base, state)
        count += 1
    assert count == 12 - BUCKET + 1
    assert not np.any(state.cache.length_B)


def test_filters_are_those_of_each_row():
    logits_BV = jnp.asarray(np.random.default_rng(0).standard_normal((6, 50)), jnp.float32)
    kinds = [
        GenerationConfig(do_sample=True, temperature=t, top_k=k, top_p=p)
        for t, k, p in [(1, 0, 1), (0.5, 7, 1), (2, 0, 0.6), (1, 5, 0.5), (0.7, 60, 0.9), (1, 1, 1)]
    ]
    each = [settings(kind, jax.random.key(0), (), 1) for kind in kinds]
    found = filtered_rows(logits_BV, Settings(*map(jnp.stack, zip(*each, strict=True))))
    counts = set()
    for row, kind in enumerate(kinds):
        expected = filtered(logits_BV[row : row + 1], kind)[0]
        np.testing.assert_array_equal(found[row], expected)
        counts.add(int(jnp.sum(jnp.isfinite(expected))))
    assert len(counts) > 3


@pytest.mark.parametrize(
    ("decoding", "stops", "match"),
    [
        (GenerationConfig(num_beams=2), 2, "not offered for slots"),
        (GenerationConfig(no_repeat_ngram_size=2), 2, "not offered for slots"),
        (GenerationConfig(), 1, "room for 1"),
    ],
)
def test_what_slots_do_not_have_is_refused(decoding, stops, match):
    with pytest.raises(ValueError, match=match):
        settings(decoding, jax.random.key(0), EOS, stops)
