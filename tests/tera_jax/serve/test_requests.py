"""Requests check themselves; those that wait come first as they came; memory is bounded."""

from concurrent.futures import Future

import numpy as np
import pytest

from tera_jax.serve.adapter_source import Flat, Given, Stored
from tera_jax.serve.answer import Answer
from tera_jax.serve.engine_config import EngineConfig
from tera_jax.serve.lru import LRU
from tera_jax.serve.requests import BusyError, Engine, Request, Sampling, UnknownAdapterError
from tera_jax.serve.waiting import Waiting
from tests.tera_jax.serve.test_store import SHAPES, Store, arrays


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": -1}, "max_tokens is -1; give an integer from 0 to"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"temperature": float("nan")}, "temperature is nan; give a number from 0 to 100"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 0.0}, "top_p is 0; give a number above 0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"stop_ids": (1,) * 9}, "stop_ids is .* at most 8 ids"),
        ({"logprobs": 21}, "logprobs is 21; give an integer from 0 to 20"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_values_outside_of_their_limits_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**{"max_tokens": 1, **fields})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": ()}, "a prompt of one token at least"),
        ({"tokens": (1.5,)}, "an entry that is no integer"),
        ({"adapter": "../x"}, "is no name of an adapter"),
        ({"echo_logprobs": 21}, "echo_logprobs is 21"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_requests_check_themselves(changes, message):
    fields = {"tokens": (1,), "adapter": None, "sampling": Sampling(1)}
    Request(**fields)
    with pytest.raises(ValueError, match=message):
        Request(**{**fields, **changes})


def answer(name, limit=4):
    request = Request((1,), name, Sampling(limit))
    return Answer(request, print, EngineConfig(), lambda _: None)


def test_who_waits_for_an_adapter_stops_nobody_and_goes_first_then():
    loads = {}

    def load(name):
        loads[name] = Future()
        return loads[name]

    waiting = Waiting(4, 3, load)
    cold, base, far, last = answer("cold"), answer(None), answer("far"), answer("last")
    for each in (cold, base, far, last):
        waiting.add(each)
    assert [*loads] == ["cold", "far"]  # those ahead alone
    with pytest.raises(BusyError, match="4 requests wait"):
        waiting.add(answer(None))
    assert waiting.first(is_free=False) is None
    assert waiting.take(is_free=True) is base
    assert waiting.take(is_free=True) is None
    assert [*loads] == ["cold", "far", "last"]
    for name in ("far", "cold"):
        loads[name].set_result(Flat(1, None))
    assert waiting.take(is_free=True) is cold
    assert waiting.take(is_free=True) is far
    assert waiting.remove(last)
    assert not waiting.remove(last)
    read = answer(None, limit=0)
    waiting.add(read)
    assert waiting.take(is_free=False) is read


def test_what_was_not_used_for_longest_is_forgotten():
    kept = LRU(10)
    for key in "abc":
        kept.put(key, key.upper(), 4)
    assert [kept.get(key) for key in "abc"] == [None, "B", "C"]
    kept.get("b")
    kept.put("d", "D", 4)
    assert [kept.get(key) for key in "bcd"] == ["B", None, "D"]
    kept.put("e", "E", 11)
    assert kept.get("e") is None
    kept.put("d", "F", 5)
    assert (kept.get("d"), kept.bytes, len(kept)) == ("F", 9, 2)


def test_adapters_are_read_once_for_each_version(tmp_path):
    with Store.create(tmp_path / "s", SHAPES, {}, "float32") as store:
        store.put("a", arrays(0))
        source = Stored(store, 1000)
        first = source.load("a")
        assert source.load("a") is first
        store.put("a", arrays(1))
        second = source.load("a")
        store.delete("a")
        with pytest.raises(UnknownAdapterError):
            source.load("a")
    assert second.version != first.version
    assert (source.hits, source.misses, source.host_bytes) == (1, 3, 40)
    expected = [*arrays(1)["q/d0"].ravel(), *arrays(1)["q/d1"]]
    assert second.numbers.tolist() == expected
    source.close()


def test_one_adapter_is_there_from_the_start():

    source = Given({"b": np.zeros(2), "a": np.ones(2)})
    assert source.names("", 1) == ["a"]
    assert source.load("b") == Flat(None, source.load("b").numbers)
    with pytest.raises(UnknownAdapterError, match="no adapter 'c'"):
        source.load("c")
    assert not isinstance(source, Engine)
