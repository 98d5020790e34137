"""Adapters of a store are read once a version; one that was given is there from the start."""

import numpy as np
import pytest

from tera_jax.serve.engine.adapter_source import Flat, Given, Stored
from tera_jax.serve.requests import Engine, UnknownAdapterError
from tests.tera_jax.serve.store.test_store import SHAPES, Store, arrays


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
    assert (source.hits, source.misses, source.host_bytes) == (1, 2, 40)
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
