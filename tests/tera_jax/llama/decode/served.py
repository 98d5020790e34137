"""Requests to slots, their tokens by ``generate`` alone, and a loop that serves them in slots."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax import adapt
from tera_jax.adapters.bank import make_bank
from tera_jax.llama import GenerationConfig, Llama, LlamaConfig
from tera_jax.llama.decode import slots
from tera_jax.llama.decode.generate import generate, left_pad
from tera_jax.llama.decode.sampling import settings
from tera_jax.methods import TABLE
from tests import initial
from tests.parts import SMALL

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
    params = initial.params(model, jnp.ones((1, 2), jnp.int32))
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: p + jnp.asarray(0.2 * random.standard_normal(p.shape), p.dtype), params
    )
    fields = {"lora": {"rank": 4}, "dora": {"rank": 4}, "tera": {"num_modes": 2}}[name]
    adapter = adapt(model, jnp.ones((1, 2), jnp.int32), method=name, config=TABLE[name](**fields))
    frozen = initial.frozen(adapter, params)
    first = initial.d(adapter, params, frozen)
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


def served(kind, waiting, random, evict=0.0, programs=None, look=None):
    """Tokens of each request; some are evicted on the way, and begun again later.

    ``look`` gets the state after each step.
    """
    model, adapter, base, _, rows = kind
    programs = programs or slots.make_programs(model, adapter, SLOTS)
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
        if look is not None:
            look(state)
        for slot, (_, _, tokens) in running.items():
            if int(new_B[slot]) != slots.NO_TOKEN:
                tokens.append(int(new_B[slot]))
        idle = sorted(set(range(BATCH)) - set(running))
        assert all(int(new_B[slot]) == slots.NO_TOKEN for slot in idle)
    return [done[number] for number in sorted(done)]
