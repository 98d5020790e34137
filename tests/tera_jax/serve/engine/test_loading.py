"""An engine's store, base and sizes are compared before anything is compiled."""

import dataclasses

import jax
import pytest

from tera_jax.llama import stacking
from tera_jax.serve.engine import Engine
from tera_jax.serve.engine_config import EngineConfig
from tera_jax.serve.store import Store
from tests.tera_jax.serve.engines import CONFIG, SHARED, filled, kind


@pytest.fixture
def store(tmp_path):
    with filled(tmp_path / "s", 0) as made:
        yield made


def changed(store, tmp_path, **changes):
    return Store.create(tmp_path / "o", store.layout.shapes, {**store.description, **changes})


def test_another_base_or_network_is_refused(store, tmp_path):
    model, _, base, *_ = kind()
    params = base["params"]
    other = {**params, "norm": jax.tree.map(lambda v: v + 1, params["norm"])}
    with pytest.raises(ValueError, match=r"is for the base .* these weights"):
        Engine.of_store(model, other, store, CONFIG)
    with pytest.raises(ValueError, match=r"are a list, .* pass base_fingerprint="):
        Engine.of_store(model, stacking.split(params, keep=True), store, CONFIG)
    with pytest.raises(ValueError, match="frozen network of fingerprint 00, but its seed gives"):
        Engine.of_store(model, params, changed(store, tmp_path, frozen_fingerprint="00"), CONFIG)


def test_a_store_of_other_arrays_is_refused(store, tmp_path):
    model, _, base, *_ = kind()
    with (
        Store.create(tmp_path / "x", {"d": (3,)}, store.description) as other,
        pytest.raises(ValueError, match=r"q_proj/tera/0 is missing in the store and \(2, 32\)"),
    ):
        Engine.of_store(model, base["params"], other, CONFIG)
    with (
        Store.create(tmp_path / "y", {"d": (3,)}, {}) as bare,
        pytest.raises(ValueError, match="does not say what its adapters are"),
    ):
        Engine.of_store(model, base["params"], bare, CONFIG)
    assert {*SHARED} == {*store.description}


def test_slots_beyond_the_context_are_refused():
    model, _, base, *_ = kind()
    config = dataclasses.replace(CONFIG, max_length=65, buckets=())
    with pytest.raises(ValueError, match="beyond the model's context of 64; lower it"):
        Engine.of_base(model, base["params"], config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"slots": 0}, "slots is 0; give an integer of at least 1"),
        ({"max_length": 1}, "max_length is 1"),
        ({"buckets": (9, 600)}, "buckets .* from 1 to max_length=512"),
        ({"eos_ids": (-1,)}, "eos_ids .* below 0"),
    ],
)
def test_sizes_have_limits(fields, message):
    with pytest.raises(ValueError, match=message):
        EngineConfig(**fields)


def test_buckets():
    assert EngineConfig(max_length=200).lengths() == (32, 64, 128, 200)
    assert EngineConfig(max_length=128).lengths() == (32, 64, 128)
    assert EngineConfig(max_length=64, buckets=(9, 3)).lengths() == (3, 9, 64)
