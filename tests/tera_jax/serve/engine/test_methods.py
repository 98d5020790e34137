"""Each row of the methods table: the engine serves what it decodes alone, or refuses by name."""

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import adapt
from tera_jax.llama import GenerationConfig, Llama, LlamaConfig
from tera_jax.llama.decode.generate import generate, left_pad
from tera_jax.methods import TABLE
from tera_jax.methods.base import NotByRowsError
from tera_jax.serve.engine import Engine
from tera_jax.serve.engine.slot_device import SlotDevice
from tera_jax.serve.engine_config import EngineConfig
from tests.parts import SMALL, SMALL_METHODS, perturbed
from tests.tera_jax.serve.engines import Client

REFUSED = {"full"}
NEW, PROMPT = 6, (20, 21, 22)
CONFIG = EngineConfig(slots=2, max_length=12, echo=False, prefill_tokens=12)


@functools.cache
def base():
    model = Llama(LlamaConfig.from_hf(SMALL))
    params = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    draw = np.random.default_rng(0)
    return model, jax.tree.map(
        lambda p: p + jnp.asarray(0.2 * draw.standard_normal(p.shape), p.dtype), params
    )


def made(name):
    """The adapter of a method, and variables that change the model."""
    model, params = base()
    config = TABLE[name](**SMALL_METHODS[name])
    adapter = adapt(model, jnp.ones((1, 2), jnp.int32), method=name, config=config)
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    variables = perturbed(adapter, params, draw)[0]
    d = jax.tree.map(
        lambda v: v + jnp.asarray(0.5 * draw.standard_normal(v.shape), v.dtype), variables["d"]
    )
    return adapter, {**variables, "d": d}


def alone(apply, variables, virtual):
    """Tokens by ``generate``."""
    model, _ = base()
    decoding = GenerationConfig(max_new_tokens=NEW)
    run = functools.partial(generate, model, decoding=decoding, eos_id=(), pad_id=0, apply=apply)
    prompt = [*virtual, *PROMPT]
    return np.asarray(jax.jit(run)(variables, *left_pad([prompt], 0, len(prompt))))[0].tolist()


def test_every_method_is_here():
    assert {*SMALL_METHODS} == {*TABLE}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_share_a_batch_is_refused_by_name(name):
    model, _ = base()
    with pytest.raises(NotByRowsError, match=f"{name} trains a copy of every parameter"):
        Engine.of_adapter(model, *made(name), "mine", CONFIG)


@functools.cache
def of_base():
    model, params = base()
    return alone(model.apply, {"params": params}, ())


@pytest.mark.long
@pytest.mark.parametrize("name", sorted({*TABLE} - REFUSED))
def test_tokens_are_those_of_the_adapter_alone(name, monkeypatch):
    """Beside the base in the other slot. Only the programs that are used are compiled."""
    monkeypatch.setattr(SlotDevice, "warm", lambda _: None)
    model, _ = base()
    adapter, variables = made(name)
    engine = Engine.of_adapter(model, adapter, variables, "mine", CONFIG)
    clients = [Client(engine, PROMPT, each, max_tokens=NEW) for each in ("mine", None)]
    found = [client.tokens for client in clients]
    engine.close()
    virtual = adapter.virtual_tokens(model.config.vocab_size)
    assert found[0] == alone(functools.partial(adapter.apply, model), variables, virtual)
    assert found[1] == of_base()
    assert found[0] != found[1]


@pytest.mark.long
def test_scores_of_a_prompt_are_not_those_of_the_virtual_tokens(monkeypatch):
    monkeypatch.setattr(SlotDevice, "warm", lambda _: None)
    model, params = base()
    adapter, variables = made("prompt")
    config = dataclasses.replace(CONFIG, echo=True)
    engine = Engine.of_adapter(model, adapter, variables, "mine", config)
    clients = [Client(engine, PROMPT, name, echo=1, max_tokens=1) for name in ("mine", None)]
    found = [[token.logprob for token in client.wait().prompt_logprobs] for client in clients]
    engine.close()
    virtual = adapter.virtual_tokens(model.config.vocab_size)
    mine = adapter.apply(model, variables, jnp.asarray([[*virtual, *PROMPT]]))
    bare = model.apply({"params": params}, jnp.asarray([PROMPT]))
    for scores, given, before in zip(found, (mine, bare), (len(virtual), 0), strict=True):
        logp_LV = jax.nn.log_softmax(given[0][0].astype(jnp.float32))[before:]
        right = [logp_LV[place, id_] for place, id_ in enumerate(PROMPT[1:])]
        assert scores[0] is None
        np.testing.assert_allclose(scores[1:], right, atol=1e-4)
    assert np.abs(np.subtract(found[0][1:], found[1][1:])).max() > 1e-2
