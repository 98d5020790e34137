"""Beams, caches and slots of a family give what the model without a cache gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tera_jax import adapt
from tera_jax.adapters.bank import make_bank
from tera_jax.llama import GenerationConfig, load_pretrained
from tera_jax.llama.decode import slots
from tera_jax.llama.decode.generate import generate, left_pad
from tera_jax.methods import TABLE
from tera_jax.serve.engine import Engine
from tests.tera_jax.llama.decode.served import BUCKET, EOS, LONGEST, SLOTS, alone, requests, served
from tests.tera_jax.serve.engines import BUCKETED, Client

PROMPTS = [list(range(20, 41)), [17, 40, 8, *range(60, 75)], [90] * 19]
"""Longer than any window, and than what LongRoPE calls short."""


def decoded(model, params, **how):
    """New tokens of the prompts, all in one batch and padded on the left."""
    how = {"decoding": GenerationConfig(**how), "eos_id": None, "pad_id": 0}
    run = jax.jit(functools.partial(generate, model, **how))
    return np.asarray(run({"params": params}, *left_pad(PROMPTS, 0)))


@pytest.mark.long
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "phi3-long", "smollm3"])
def test_beams_equal_transformers_beyond_the_window(family, family_path, load_torch):
    model, params = load_pretrained(family_path(family))
    theirs, how = load_torch(family_path(family)), {"num_beams": 3, "max_new_tokens": 12}
    found = decoded(model, params, **how)
    for row, prompt in zip(found, PROMPTS, strict=True):
        expected = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            **how,
        )[0, len(prompt) :]
        np.testing.assert_array_equal(row, expected.numpy())
    assert not np.array_equal(found, decoded(model, params, max_new_tokens=12))


@pytest.mark.long
@pytest.mark.parametrize("unroll", [False, True])
def test_tokens_of_a_cache_are_those_of_the_whole_text(decoder, unroll, apply):
    """The last token of each prefix by the model without a cache: greedy, row by row."""
    model, params = decoder
    found = decoded(model.clone(unroll=unroll), params, max_new_tokens=24)
    for row, prompt in zip(found, PROMPTS, strict=True):
        text_1L = np.asarray([[*prompt, *row]], np.int32)
        logits_LV = apply(model, params, text_1L)[0]
        expected = np.argmax(logits_LV[len(prompt) - 1 : -1], axis=-1)
        np.testing.assert_array_equal(row, expected)
    assert len({tuple(row) for row in found.tolist()}) > 1


@pytest.fixture
def kind(decoder):
    """Model, adapter, base, three d and the rows of them."""
    model, params = decoder
    tokens = jnp.ones((1, 2), jnp.int32)
    adapter = adapt(model, tokens, method="lora", config=TABLE["lora"](rank=4))
    first, random = adapter.init_d(params, {}), np.random.default_rng(0)
    d = [
        jax.tree.map(
            lambda v: v + jnp.asarray(0.3 * random.standard_normal(v.shape), v.dtype), first
        )
        for _ in range(3)
    ]
    bank = make_bank(adapter, params, {}, d)
    rows = [bank.row(entry) for entry in range(bank.size)]
    return model, adapter, {"params": params, "frozen": {}}, d, rows


@pytest.mark.long
def test_slots_give_each_request_its_tokens_alone(kind):
    """A prompt of a few tokens has the frequencies of the slot that it goes to."""
    waiting = list(requests(4))
    found = served(kind, waiting, np.random.default_rng(1), evict=0.05)
    assert found == [alone(kind, *request) for request in waiting]
    others = [((entry + 1) % 4, *rest) for entry, *rest in waiting]
    assert found != [alone(kind, *request) for request in others]
    assert BUCKET < 16 < BUCKET + LONGEST - 1 <= SLOTS  # LongRoPE's switch is between them


@pytest.mark.long
def test_the_engine_answers_as_the_base_does_alone(kind):
    model, _, base, *_ = kind
    engine = Engine.of_base(model, base["params"], BUCKETED)
    prompts = [[20, 21, 22], [30 + n for n in range(BUCKET)], [50]]
    decoding = GenerationConfig(max_new_tokens=LONGEST)
    clients = [Client(engine, prompt) for prompt in prompts]
    found = [client.tokens for client in clients]
    engine.close()
    for tokens, prompt in zip(found, prompts, strict=True):
        expected = alone(kind, 0, prompt, decoding, jax.random.key(0))
        assert tokens == (expected[:-1] if expected[-1] in EOS else expected)
    assert len({tuple(tokens) for tokens in found}) > 1


def test_a_longrope_model_needs_the_size_of_its_slots(family_path):
    model, params = load_pretrained(family_path("phi3-long"))
    programs = slots.make_programs(model, None)
    with pytest.raises(ValueError, match="slots is None; of a model with LongRoPE"):
        programs.prefill({"params": params}, None, jnp.ones((1, 4), jnp.int32), jnp.int32(3))
