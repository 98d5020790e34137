"""Those that wait for a slot come first as they came."""

from concurrent.futures import Future

import pytest

from tera_jax.serve.engine.adapter_source import Flat
from tera_jax.serve.engine.answer import Answer
from tera_jax.serve.engine.waiting import Waiting
from tera_jax.serve.engine_config import EngineConfig
from tera_jax.serve.requests import BusyError, Request, Sampling


def answer(name, limit=4):
    request = Request((1,), name, Sampling(limit))
    return Answer(request, print, EngineConfig(), lambda _: None, newest=7)


def test_who_waits_for_an_adapter_stops_nobody_and_goes_first_then():
    loads = {}

    def load(name, version):
        assert version == 7
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
