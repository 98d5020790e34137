"""Adapter directories go into a store and come out as they were."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import load_adapter, save_adapter
from tera_jax.serve import transfer
from tera_jax.serve.store import Store
from tests.tera_jax.io.test_adapter_files import MODEL, X, made, rewrite


def save_some(place, count=3, **fields):
    adapter, variables = made(**fields)
    found = {}
    for number in range(count):
        d = jax.tree.map(lambda v, n=number: v * (n + 1), variables["d"])
        found[f"a{number}"] = d
        save_adapter(place / f"a{number}", adapter, {**variables, "d": d}, "base")
    return adapter, variables, found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_directories_come_back_with_the_same_numbers(tmp_path, dtype):
    adapter, variables, expected = save_some(tmp_path / "adapters")
    paths = transfer.find(tmp_path / "adapters")
    with transfer.create(tmp_path / "s", paths["a0"], dtype) as store:
        assert [*transfer.import_all(store, paths)] == ["a0", "a1", "a2"]
        transfer.export(store, "a1", tmp_path / "back")
    loaded, found = load_adapter(tmp_path / "back", variables["params"])
    assert loaded == adapter
    for a, b in zip(*map(jax.tree.leaves, (found["d"], expected["a1"])), strict=True):
        assert jnp.array_equal(a, b.astype(dtype).astype(jnp.float32))
    assert jnp.isfinite(loaded.apply(MODEL, found, X)).all()
    with pytest.raises(FileExistsError, match="not empty"):
        transfer.export(Store.open(tmp_path / "s"), "a1", tmp_path / "back")


def test_a_frozen_network_that_is_brought_along_is_kept_once(tmp_path):
    adapter, variables = made()
    save_adapter(tmp_path / "a", adapter, variables, "base", with_frozen=True)
    with transfer.create(tmp_path / "s", tmp_path / "a", "float32") as store:
        [*transfer.import_all(store, transfer.find(tmp_path / "a"))]
        transfer.export(store, "a", tmp_path / "back")
    assert (tmp_path / "back" / "frozen.safetensors").is_file()
    _, found = load_adapter(tmp_path / "back", variables["params"])
    for a, b in zip(*map(jax.tree.leaves, (found["frozen"], variables["frozen"])), strict=True):
        assert jnp.array_equal(a, b)


def other_base(path):
    rewrite(path, lambda description: description["base"].update(fingerprint="0" * 16))


def other_seed(path):
    shutil.rmtree(path)
    adapter, variables = made(seed=3)
    save_adapter(path, adapter, variables, "base")


def changed_byte(path):
    file = path / "adapter.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_base, "was made for a base with fingerprint 0000"),
        (other_seed, "has the config .* but the store"),
        (changed_byte, "is damaged"),
    ],
)
def test_adapters_of_other_kinds_are_refused_by_name(tmp_path, change, message):
    save_some(tmp_path / "adapters")
    change(tmp_path / "adapters" / "a1")
    paths = transfer.find(tmp_path / "adapters")
    with transfer.create(tmp_path / "s", paths["a0"]) as store:
        with pytest.raises(ValueError, match=message):
            [*transfer.import_all(store, paths)]
        assert len(store) == 0


def test_what_is_no_directory_of_adapters_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no adapter\.json"):
        transfer.find(tmp_path)


def test_the_description_says_what_all_adapters_share(tmp_path):
    adapter, variables, _ = save_some(tmp_path, 1)
    with transfer.create(tmp_path / "s", tmp_path / "a0") as store:
        described = store.description
    assert described["method"] == "tera"
    assert described["base"]["name"] == "base"
    assert [layer["path"] for layer in described["layers"]] == [[*x.path] for x in adapter.layers]
    assert json.loads((tmp_path / "s" / "store.json").read_text())["description"] == described
    numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(variables["d"]))
    assert store.layout.size == 2 * numbers
