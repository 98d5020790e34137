"""A store of unlike adapters of a tiny model, requests to an engine, and their answers alone."""

import dataclasses
import functools
import json
import threading

import jax
import numpy as np

from tera_jax import trees
from tera_jax.fingerprint import base_fingerprint, fingerprint
from tera_jax.io import adapter_description
from tera_jax.llama import GenerationConfig
from tera_jax.serve.engine_config import EngineConfig
from tera_jax.serve.requests import Finish, Request, Sampling
from tera_jax.serve.store import Store
from tests.tera_jax.llama.decode.served import BUCKET, EOS, LONGEST, SLOTS, alone, made

CONFIG = EngineConfig(slots=4, max_length=SLOTS, eos_ids=EOS)
BUCKETED = dataclasses.replace(CONFIG, buckets=(BUCKET,))
SHARED = ("method", "config", "layers", "frozen_fingerprint", "base")


@functools.cache
def kind(unroll=False):
    """Model, adapter, base, d that nothing uses, and rows."""
    return made("tera", unroll)


def drawn(seed):
    """The d of an adapter."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(
        lambda v: np.asarray(v) + 0.3 * draw.standard_normal(v.shape, np.float32), kind()[3][0]
    )


def arrays(seed):
    """Of a store's adapter."""
    return trees.named(drawn(seed))


def filled(place, count, dtype="float32"):
    """A store with the adapters ``n0``, ``n1``, ... whose seeds are 0, 1, ..."""
    _, adapter, base, *_ = kind()
    names = {"name": "base", "fingerprint": base_fingerprint(base["params"])}
    described = adapter_description.describe(adapter, fingerprint(base["frozen"]), names, {})
    described = json.loads(json.dumps({key: described[key] for key in SHARED}))
    shapes = {key: value.shape for key, value in arrays(0).items()}
    store = Store.create(place, shapes, described, dtype)
    store.put_all([(f"n{seed}", arrays(seed)) for seed in range(count)])
    return store


def expected(seed, prompt, limit=LONGEST, d=None):
    """Greedy tokens by ``generate`` of one adapter, or of the base with None."""
    model, adapter, base, *_ = kind()
    d = [] if seed is None else [drawn(seed) if d is None else d]
    decoding = GenerationConfig(max_new_tokens=limit)
    found = alone((model, adapter, base, d, None), len(d), prompt, decoding, jax.random.key(0))
    return found[:-1] if found[-1] in EOS else found


def prompts(count, seed=0):
    """Unlike prompts."""
    draw = np.random.default_rng(seed)
    return [draw.integers(12, 64, draw.integers(1, BUCKET + 1)).tolist() for _ in range(count)]


class Gate:
    """A look that holds the engine's thread at a client's first event, until it is opened."""

    def __init__(self):
        self._reached, self._opened = threading.Event(), threading.Event()

    def __call__(self, client, event):
        self._reached.set()
        self._opened.wait(60)

    def wait(self):
        """Until the engine's thread is held."""
        assert self._reached.wait(60)

    def open(self):
        """Let it go on."""
        self._opened.set()


class Client:
    """A request and what came back.

    Args:
        engine: that answers.
        prompt: token ids.
        adapter: its name.
        look: called with each event, in the engine's thread.
        fields: of the sampling.
    """

    def __init__(self, engine, prompt, adapter=None, look=None, echo=None, **fields):
        self.events, self._look, self._ended = [], look, threading.Event()
        sampling = Sampling(**{"max_tokens": LONGEST, **fields})
        self.request = Request(tuple(prompt), adapter, sampling, echo)
        self.ticket = engine.submit(self.request, self)

    def __call__(self, event):
        self.events.append(event)
        if self._look is not None:
            self._look(self, event)
        if isinstance(event, Finish):
            self._ended.set()

    def wait(self):
        """The end."""
        assert self._ended.wait(300)
        assert [isinstance(event, Finish) for event in self.events].count(True) == 1
        assert isinstance(self.events[-1], Finish)
        return self.events[-1]

    @property
    def tokens(self):
        """The new tokens."""
        self.wait()
        return [event.id for event in self.events[:-1]]
