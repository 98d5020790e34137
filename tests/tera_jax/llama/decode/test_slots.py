"""Rows in slots, admitted and evicted as it comes: the tokens are those of ``generate`` alone."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import quantize
from tera_jax.adapters.interceptor import dequantized
from tera_jax.llama import GenerationConfig
from tera_jax.llama.decode import slots
from tera_jax.llama.decode.config import filtered
from tera_jax.llama.decode.sampling import Settings, settings
from tera_jax.llama.decode.sampling import filtered as filtered_rows
from tests.marks import quick_only
from tests.tera_jax.llama.decode.served import (
    BATCH,
    BUCKET,
    EOS,
    LONGEST,
    SLOTS,
    STOPS,
    admit,
    alone,
    made,
    padded,
    requests,
    served,
)


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


@pytest.mark.parametrize("kind", quick_only(["fp8"], ["nf4", "fp8"]))
def test_a_quantised_base_without_an_adapter_decodes_as_generate_does(kind):
    model, _, base, d, _ = made("lora", unroll=True)
    params = quantize.quantize(base["params"], kind, 16 if kind == "nf4" else quantize.BLOCK)
    request = 0, [20, 21, 22], GenerationConfig(max_new_tokens=LONGEST), jax.random.key(0)
    bare = model, None, {"params": params}, d, [None]
    with nn.intercept_methods(dequantized):
        expected = alone(bare, *request)
    assert served(bare, [request], np.random.default_rng(1)) == [expected]
    assert alone(made("lora", unroll=True), *request) != expected
