"""``adapter.json`` of every method: each field is covered, and nothing is drawn before a look."""

import copy
import hashlib
import json
import resource
import time

import jax
import jax.numpy as jnp
import pytest
from safetensors.numpy import load_file, save_file

from tera_jax import load_adapter
from tera_jax.adapters.factory import make
from tera_jax.adapters.linear import LinearAdapter
from tera_jax.disk import require_header, save_arrays
from tera_jax.io import adapter_description
from tera_jax.io.adapter_files import save_adapter
from tera_jax.methods import TABLE, TargetLayer
from tera_jax.methods.base import LinearMethod, NormMethod

SETTINGS = {
    "p_tuning": {"num_virtual_tokens": 4, "hidden_size": 16},
    "mora": {"rank": 2},
    "quanta": {"axes": (4, 4, 2)},
    "hira": {"rank": 4},
    "tera": {"num_modes": 2, "tensorizations": ("32|8x4",)},
    "unilora": {"rank": 4, "length": 200},
    "unires": {"length": 200},
    "fourierft": {"num_frequencies": 20},
    "vblora": {"num_vectors": 20, "vector_length": 16},
    "loretta": {"modes": ("4x8x8",)},
}
LAYER = TargetLayer(("layers", "self_attn", "q_proj"), (32, 32), (2,))
NORM = TargetLayer(("norm",), (32,))
EMBEDDING = TargetLayer(("embed_tokens",), (64, 32))


def adapter_of(name):
    row = TABLE[name]
    if issubclass(row, LinearMethod | NormMethod):
        layers = (LAYER,) if issubclass(row, LinearMethod) else (NORM,)
    else:
        layers = (EMBEDDING,) * (name != "full")
    return make(name, row(**SETTINGS.get(name, {})), layers)


def checksummed(description):
    """The description with the checksum that it should have."""
    rest = {key: value for key, value in description.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True)
    return {**rest, "checksum": hashlib.sha256(text.encode()).hexdigest()}


def write(path, description):
    (path / "adapter.json").write_text(json.dumps(description))


def leaves(value, path=()):
    """Every value of a description, with its path."""
    if isinstance(value, dict | list) and value:
        rows = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in rows:
            yield from leaves(each, (*path, key))
    else:
        yield path, value


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def flipped(value):
    """Another value of the same type, where there is one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 10 + 1
    if isinstance(value, str):
        return ("0" if value[:1] != "0" else "1") + value[1:]
    return 1 if value is None else [1] if value == [] else {"x": 1}


@pytest.mark.parametrize("name", TABLE)
def test_every_field_is_covered_by_the_checksum(name, tmp_path):
    adapter = adapter_of(name)
    base = {"name": "base/name", "fingerprint": "b" * 16}
    sums = {"adapter.safetensors": "a" * 64}
    described = adapter_description.describe(adapter, "f" * 16, base, sums)
    description = json.loads(json.dumps(described))
    write(tmp_path, description)
    assert adapter_description.read(tmp_path)[0] == adapter
    assert checksummed(description) == description
    found = dict(leaves(description))
    assert {("config", field) for field in description["config"]} <= {path[:2] for path in found}
    for path, value in found.items():
        for other in (flipped(value), {"a": {}}, None if value is not None else 0):
            changed = copy.deepcopy(description)
            at(changed, path[:-1])[path[-1]] = other
            write(tmp_path, changed)
            with pytest.raises(ValueError, match=r"was changed|has format and version"):
                adapter_description.read(tmp_path)
        changed = copy.deepcopy(description)
        del at(changed, path[:-1])[path[-1]]
        write(tmp_path, changed)
        with pytest.raises(ValueError, match=r"was changed|has format and version"):
            adapter_description.read(tmp_path)


@pytest.mark.parametrize("name", TABLE)
def test_a_wrong_type_under_a_right_checksum_is_named(name, tmp_path):
    base = {"name": "base/name", "fingerprint": "b" * 16}
    description = adapter_description.describe(adapter_of(name), "f" * 16, base, {})
    description = json.loads(json.dumps(description))
    for field in description["config"]:
        changed = copy.deepcopy(description)
        changed["config"][field] = {"a": 1}
        write(tmp_path, checksummed(changed))
        with pytest.raises(ValueError, match=rf"sets config\.{field} to \{{'a': 1\}}, not "):
            adapter_description.read(tmp_path)
    for path in dict(leaves({**description, "checksum": {}})):
        if path == ("checksum",):
            continue
        changed = copy.deepcopy(description)
        at(changed, path[:-1])[path[-1]] = [{"a": True}]
        write(tmp_path, checksummed(changed))
        with pytest.raises(ValueError, match=r"sets |has format and version|unknown key"):
            adapter_description.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "tera-jax-adapter", "version": 3}', r"\('tera-jax-adapter', 3\), but this"),
        ('{"format": "tera-jax-adapter", "version": true}', "has format and version"),
        ('{"format": "tera-jax-adapter", "version": 1, "version": 2}', "'version' stands twice"),
        ('{"a": ' * 10_000, "more than 64 objects and lists"),
        ('{"version": NaN}', "NaN is not a number"),
        ("[]", "its top level is no object"),
        ("{", "is not JSON"),
    ],
)
def test_another_file_is_one_clear_error(text, message, tmp_path):
    (tmp_path / "adapter.json").write_text(text)
    with pytest.raises(ValueError, match=rf"adapter\.json .*{message}"):
        adapter_description.read(tmp_path)


def saved(name, path):
    """A directory with an adapter of a method, and its base."""
    adapter = adapter_of(name)
    params = {
        "embed_tokens": {"embedding": jnp.ones((64, 32))},
        "layers": {"self_attn": {"q_proj": {"kernel": jnp.ones((2, 32, 32)) / 9}}},
    }
    frozen = adapter.init_frozen(params)
    variables = {"params": params, "frozen": frozen, "d": adapter.init_d(params, frozen)}
    save_adapter(path, adapter, variables, "base/name")
    return params, json.loads((path / "adapter.json").read_text())


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("vera", "rank", 10**9), ("unilora", "length", 2 * 10**9), ("tera", "num_modes", 3)],
)
def test_nothing_is_drawn_for_a_header_that_does_not_fit(name, field, value, tmp_path, monkeypatch):
    """A frozen network of 128 GB, or of other shapes than the d that stands beside it."""
    params, description = saved(name, tmp_path / "a")
    description["config"][field] = value
    if field == "num_modes":
        description["config"]["tensorizations"] = ["32|4x4x2"]
    write(tmp_path / "a", checksummed(description))
    drawn = []
    init = LinearAdapter.init_frozen

    def recorded(self, params):
        drawn.append(not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(params)))
        return init(self, params)

    monkeypatch.setattr(LinearAdapter, "init_frozen", recorded)
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"adapter\.safetensors .*adapter\.json describes"):
        load_adapter(tmp_path / "a", params)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    assert not any(drawn)


@pytest.mark.parametrize("name", ["lora", "vera", "pissa"])
def test_arrays_without_a_checksum_are_refused(name, tmp_path):
    params, description = saved(name, tmp_path / "a")
    assert set(description["arrays"]) == {file.name for file in (tmp_path / "a").glob("*.saf*")}
    load_adapter(tmp_path / "a", params)
    for file in description["arrays"]:
        rest = {key: value for key, value in description["arrays"].items() if key != file}
        write(tmp_path / "a", checksummed({**description, "arrays": rest}))
        with pytest.raises(ValueError, match=rf"{file} has no checksum in adapter\.json; write"):
            load_adapter(tmp_path / "a", params)
    write(tmp_path / "a", description)
    load_adapter(tmp_path / "a", params)
    if name == "vera":  # frozen arrays that the description does not know of
        frozen = adapter_of("vera").init_frozen(params)
        save_arrays(tmp_path / "a" / "frozen.safetensors", frozen)
        with pytest.raises(ValueError, match=r"frozen\.safetensors has no checksum in adapter"):
            load_adapter(tmp_path / "a", params)


def test_arrays_of_version_1_have_their_checksum_inside(tmp_path):
    params, description = saved("lora", tmp_path / "a")
    first = {k: v for k, v in description.items() if k not in ("arrays", "checksum")}
    write(tmp_path / "a", {**first, "version": 1})
    load_adapter(tmp_path / "a", params)
    file = tmp_path / "a" / "adapter.safetensors"
    save_file(load_file(file), file)
    with pytest.raises(ValueError, match=r"adapter\.safetensors has no checksum inside; write"):
        load_adapter(tmp_path / "a", params)


def test_a_header_is_compared_without_reading_arrays(tmp_path):
    tree = {"a": {"b": jnp.ones((3, 2))}, "c": jnp.ones(4, jnp.int32)}
    save_arrays(tmp_path / "f.safetensors", tree)
    require_header(tmp_path / "f.safetensors", tree)
    for other, message in (
        ({"a": tree["a"]}, r"lacks the arrays \[\] and has \['c'\] too many"),
        ({**tree, "d": tree["c"]}, r"lacks the arrays \['d'\]"),
        ({**tree, "c": jnp.ones(5, jnp.int32)}, r"c in .* is int32\(4,\), not int32\(5,\)"),
        ({**tree, "c": jnp.ones(4)}, r"c in .* is int32\(4,\), not float32\(4,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            require_header(tmp_path / "f.safetensors", other)
