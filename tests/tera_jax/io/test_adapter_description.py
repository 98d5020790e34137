"""``adapter.json``: version 1 is read, and any change of version 2 is seen."""

import hashlib
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tera_jax import adapt, load_adapter, save_adapter
from tera_jax.disk import save_arrays
from tera_jax.methods import TABLE
from tera_jax.network import hadamard
from tests.margins import within
from tests.marks import quick_only

# What commit 057fdb9 wrote, the last of version 1: descriptions, the shapes of d, and the outputs.
VERSION_1 = json.loads(Path(__file__).with_name("version_1.json").read_text())
KAIMING = {"init": "normal"}  # the default of that time
TODAY = {
    "tera": KAIMING
    | {"num_modes": 2, "zero_init_mode": -1, "tensorizations": ("96|8x6", "48|3x2")},
    "tera_fast": {
        "init": "normal",
        "num_modes": 2,
        "zero_init_mode": 2,
        "structure": "hadamard_factor",
        "tensorizations": ("96|8x6",),
    },
    "tera_hadamard": KAIMING
    | {
        "num_modes": 2,
        "zero_init_mode": 1,
        "structure": "hadamard",
        "tensorizations": ("96|8x6",),
    },
    "tera_unique": KAIMING | {"num_modes": 2, "zero_init_mode": 1},
    "lora": {"rank": 2, "alpha": 8.0},
    "vera": {"rank": 3},
    "prompt": {"num_virtual_tokens": 4},
}
DENSE = nn.Sequential([nn.Dense(48), nn.tanh, nn.Dense(6)])
EMBED = nn.Sequential([nn.Embed(10, 8), nn.Dense(6)])


def constant(shape):
    """The arrays that the old commit was given too."""
    size = int(np.prod(shape))
    return ((np.arange(size) % 7 - 3) / 4).astype(np.float32).reshape(shape)


def base_of(name):
    """The model, its params and inputs."""
    if name == "prompt":
        model, x = EMBED, jnp.asarray([[10, 11, 3], [2, 13, 9]], jnp.int32)
    else:
        model, x = DENSE, jnp.asarray(constant((2, 96)))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    return model, jax.tree.map(lambda leaf: jnp.asarray(constant(leaf.shape) / 8), shapes), x


def old(name, path, change=None):
    """A directory of version 1."""
    written = json.loads(json.dumps(VERSION_1[name]))
    if change is not None:
        change(written["description"])
    path.mkdir()
    (path / "adapter.json").write_text(json.dumps(written["description"], indent=2) + "\n")
    arrays = {key: constant(shape) for key, shape in written["arrays"].items()}
    save_arrays(path / "adapter.safetensors", arrays)
    return path


@pytest.mark.parametrize("name", quick_only([*TODAY][:1], TODAY))
def test_version_1_is_read_and_written_again_as_version_2(name, tmp_path):
    model, params, x = base_of(name)
    adapter, v = load_adapter(old(name, tmp_path / "one"), params)
    expected = VERSION_1[name]
    method = expected["description"]["method"]
    assert adapter.method == TABLE[method](**TODAY[name])
    assert adapter.method != TABLE[method]()
    outputs = np.ravel(adapter.apply(model, v, x))[:6]
    wanted = np.asarray(expected["outputs"])
    within(np.abs(outputs - wanted).max(), 1e-5 * np.abs(wanted).max())
    others = {**v, "d": jax.tree.map(lambda leaf: leaf + 0.1, v["d"])}
    assert not np.allclose(np.ravel(adapter.apply(model, others, x))[:6], outputs, rtol=1e-2)
    save_adapter(tmp_path / "two", adapter, v, "base/name")
    again, found = load_adapter(tmp_path / "two", params)
    assert again == adapter
    assert all(map(jnp.array_equal, jax.tree.leaves(found), jax.tree.leaves(v)))
    described = json.loads((tmp_path / "two" / "adapter.json").read_text())
    assert described["version"] == 2
    assert not {"parts", "zero", "wide", "core"} & set(described["config"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["config"].update(wide="dense", core="fast"), r"wide and core \('dense', 'fa"),
        (lambda d: d["config"].update(rank=3), r"unknown key 'config\.rank' \(3\)"),
        (lambda d: d["config"].update(seed=1), "frozen network of fingerprint f167335397d13d2e"),
        (lambda d: d.pop("layers"), "lacks layers"),
        (lambda d: d["config"].update(wide=["fast"]), r"wide and core \(\['fast'\], 'dense'\)"),
        (lambda d: d["config"].update(num_modes=2), "fields under their old and new names"),
        (lambda d: d["base"].pop("name"), r"lacks base\.name, a text"),
        (
            lambda d: d["config"].update(parts="2"),
            r"sets config\.num_modes to '2', not a whole",
        ),
        (lambda d: d["config"].update(gain=None), r"sets config\.gain to None, not a number"),
        (
            lambda d: d["layers"][0].update(path="layers_0"),
            r"sets layers\.path to 'layers_0', not a",
        ),
        (lambda d: d["layers"][0].update(kernel_shape=[2**40, 6]), r"sets layers\.kernel_shape to"),
        (lambda d: d.update(layers=[3]), r"sets layers to \[3\], not a list, each entry an object"),
        (lambda d: d.update(method=["tera"]), r"sets method to \['tera'\], not a text"),
        (lambda d: d["base"].update(fingerprint="0"), "made for the base 'base/name' with fing"),
    ],
)
def test_a_changed_version_1_is_refused(change, message, tmp_path):
    _, params, _ = base_of("tera")
    with pytest.raises(ValueError, match=message):
        load_adapter(old("tera", tmp_path / "one", change), params)


@pytest.fixture
def saved(tmp_path):
    """A directory of version 2 with frozen arrays, its description and the base's params."""
    _, params, x = base_of("lora")
    config = TABLE["lora"](rank=2, alpha=8.0)
    adapter = adapt(DENSE, x, method="lora", config=config, targets="layers_0")
    d = jax.tree.map(lambda leaf: leaf + 0.25, adapter.init_d(params, {}))
    v = {"params": params, "frozen": {}, "d": d}
    path = save_adapter(tmp_path / "a", adapter, v, "base/name")
    load_adapter(path, params)
    return path, json.loads((path / "adapter.json").read_text()), params


def test_the_checksum_is_of_the_whole_description(saved):
    _, description, _ = saved
    checksum = description.pop("checksum")
    text = json.dumps(description, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == checksum
    assert set(description) == {
        "format", "version", "method", "config", "layers", "frozen_fingerprint", "base", "arrays"
    }  # fmt: skip


def test_one_byte_of_the_configuration_is_seen(saved):
    path, _, params = saved
    text = (path / "adapter.json").read_text()
    assert text.count('"alpha": 8.0') == 1
    (path / "adapter.json").write_text(text.replace('"alpha": 8.0', '"alpha": 80.0'))
    with pytest.raises(ValueError, match=r"adapter\.json was changed \(its checksum is another\)"):
        load_adapter(path, params)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(method="pissa"),
        lambda d: d["config"].update(rank=3),
        lambda d: d["config"].pop("dropout"),
        lambda d: d["layers"][0].update(path=["layers_2"]),
        lambda d: d["layers"][0]["config"].update(rank=1),
        lambda d: d.update(frozen_fingerprint="0"),
        lambda d: d["base"].update(name="another"),
        lambda d: d["arrays"].update({"adapter.safetensors": "0"}),
        lambda d: d.update(more=1),
        lambda d: d.pop("checksum"),
    ],
)
def test_every_part_of_the_description_is_covered(saved, change):
    path, description, params = saved
    change(description)
    (path / "adapter.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="was changed"):
        load_adapter(path, params)


def test_another_order_of_keys_and_other_spaces_are_the_same(saved):
    path, description, params = saved
    before = load_adapter(path, params)[0]

    def turned(value):
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(each) for each in value] if isinstance(value, list) else value

    text = json.dumps(turned(description))
    assert text != json.dumps(description)
    (path / "adapter.json").write_text(text)
    assert load_adapter(path, params)[0] == before


def test_other_arrays_are_seen_also_with_a_checksum_of_their_own(saved):
    path, _, params = saved
    file = path / "adapter.safetensors"
    arrays = load_file(file)
    save_file(arrays, file)  # without the checksum inside
    load_adapter(path, params)
    name = min(arrays)
    save_file({**arrays, name: arrays[name] * 2}, file)
    with pytest.raises(ValueError, match=r"adapter\.safetensors is damaged \(its checksum"):
        load_adapter(path, params)


def test_a_layers_own_configuration_is_not_read_yet(saved):
    path, description, params = saved
    description["layers"][0]["config"] = {"rank": 1}
    del description["checksum"]
    text = json.dumps(description, sort_keys=True)
    description["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (path / "adapter.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"a configuration for layer \['layers_0'\], which this"):
        load_adapter(path, params)


@pytest.mark.parametrize("structure", ["hadamard_factor", "hadamard", "dense"])
def test_how_a_size_is_split_in_three_is_kept_and_compared(tmp_path, monkeypatch, structure):
    """1,859 = 11 x 13 x 13. Signs are alike whichever way, and the network is another."""
    model, x = nn.Dense(6), jnp.zeros((1, 1859))
    config = TABLE["tera"](tensorizations=("1859|3x2",), structure=structure)
    adapter = adapt(model, x, method="tera", targets=("*",), config=config)
    params = model.init(jax.random.key(0), x)["params"]
    frozen = jax.jit(adapter.init_frozen)(params)
    v = {"params": params, "frozen": frozen, "d": adapter.init_d(params, frozen)}
    save_adapter(tmp_path / "a", adapter, v, "base/name")
    described = json.loads((tmp_path / "a" / "adapter.json").read_text())
    split = {} if structure == "dense" else {"transforms": {"1859": [11, 13, 13]}}
    assert {key: described[key] for key in ("transforms",) if key in described} == split
    load_adapter(tmp_path / "a", params)
    monkeypatch.setattr(hadamard, "kronecker_sizes", lambda size: (13, 11, 13))
    if structure == "dense":
        load_adapter(tmp_path / "a", params)
        return
    with pytest.raises(ValueError, match=r"\[11, 13, 13\].*\[13, 11, 13\].*version that wrote it"):
        load_adapter(tmp_path / "a", params)
    monkeypatch.undo()
    del described["transforms"], described["checksum"]
    rest = json.dumps(described, sort_keys=True).encode()
    described["checksum"] = hashlib.sha256(rest).hexdigest()
    (tmp_path / "a" / "adapter.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="of an earlier version"):
        load_adapter(tmp_path / "a", params)
