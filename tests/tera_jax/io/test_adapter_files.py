import hashlib
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tera_jax import adapt, load_adapter, save_adapter
from tera_jax.adapters.factory import make
from tera_jax.disk import _flatten, save_arrays, write_checked
from tera_jax.io import adapter_files
from tera_jax.io.orbax import load_orbax, save_orbax
from tera_jax.methods import TargetLayer
from tera_jax.methods.tera import TeRA
from tests import initial
from tests.marks import quick_only

X = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8)), jnp.float32)
MODEL = nn.Sequential((nn.Dense(12), nn.tanh, nn.Dense(6)))


def made(sharing="shape", **fields):
    config = TeRA(num_modes=2, sharing=sharing, **fields)
    adapter = adapt(MODEL, X, config=config, targets=["layers_0", "layers_2"])
    params = initial.params(MODEL, X)
    frozen = initial.frozen(adapter, params)
    d = jax.tree.map(lambda v: v + 0.25, initial.d(adapter, params, frozen))
    return adapter, {"params": params, "frozen": frozen, "d": d}


def save(path, **fields):
    adapter, variables = made(**fields)
    save_adapter(path, adapter, variables, "base/name")
    return adapter, variables


def rewrite(path, change):
    """Change the description, and its checksum with it."""
    description = json.loads((path / "adapter.json").read_text())
    change(description)
    del description["checksum"]
    text = json.dumps(description, sort_keys=True)
    description["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (path / "adapter.json").write_text(json.dumps(description))


@pytest.mark.parametrize("sharing", quick_only(["shape"], ["shape", "none"]))
@pytest.mark.parametrize("with_frozen", [False, True])
def test_an_adapter_survives_the_round_trip_exactly(tmp_path, sharing, with_frozen):
    adapter, variables = made(sharing, zero_init_mode=2, seed=5, dtype="bfloat16")
    save_adapter(tmp_path / "a", adapter, variables, "base/name", with_frozen)
    loaded, found = load_adapter(tmp_path / "a", variables["params"])
    assert loaded == adapter
    for a, b in zip(*map(jax.tree.leaves, (found, variables)), strict=True):
        assert a.dtype == b.dtype
        assert jnp.array_equal(a, b)
    y = loaded.apply(MODEL, found, X)
    assert jnp.array_equal(y, adapter.apply(MODEL, variables, X))
    assert not jnp.array_equal(y, MODEL.apply({"params": variables["params"]}, X))
    assert (tmp_path / "a" / "frozen.safetensors").exists() == with_frozen
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_frozen_network_that_was_compared_need_not_be_drawn_again(tmp_path, monkeypatch):
    adapter, variables = made()
    save_adapter(tmp_path / "a", adapter, variables, "base")

    def drawn(*_):
        raise RuntimeError("drawn")

    save = adapter_files.save_arrays
    monkeypatch.setattr(type(adapter), "init_frozen", drawn)
    with pytest.raises(RuntimeError, match="drawn"):
        save_adapter(tmp_path / "b", adapter, variables, "base")
    save_adapter(tmp_path / "b", adapter, variables, "base", check_frozen=False)
    for file in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()
    monkeypatch.setattr(
        adapter_files, "save_arrays", lambda path, d: save(path, jax.tree.map(jnp.negative, d))
    )
    with pytest.raises(ValueError, match="is not what was written"):
        save_adapter(tmp_path / "c", adapter, variables, "base", check_frozen=False)
    assert not (tmp_path / "c").exists()


def test_bfloat16_rounds_d_once_and_halves_the_file(tmp_path):
    adapter, variables = made()
    variables["d"] = jax.tree.map(lambda v: v + 0.0123, variables["d"])
    save_adapter(tmp_path / "a", adapter, variables, "base")
    save_adapter(tmp_path / "b", adapter, variables, "base", dtype=jnp.bfloat16)
    _, found = load_adapter(tmp_path / "b", variables["params"])
    for a, b in zip(*map(jax.tree.leaves, (found["d"], variables["d"])), strict=True):
        assert a.dtype == jnp.float32
        assert jnp.array_equal(a, b.astype(jnp.bfloat16).astype(jnp.float32))
        assert not jnp.array_equal(a, b)


def test_the_adapter_of_a_7b_model(tmp_path):
    """Llama-2-7B's q and v under 4096|8x8x8x8: 1.06 MB in float32, below 1 MB in bfloat16."""
    sites = tuple(
        TargetLayer(("layers", "self_attn", name), (4096, 4096), (32,))
        for name in ("q_proj", "v_proj")
    )
    adapter = make("tera", TeRA(), sites)
    params = params_of(sites)
    d = jax.eval_shape(adapter.init_d, params, jax.eval_shape(adapter.init_frozen, params))
    assert sum(leaf.size for leaf in jax.tree.leaves(d)) == 264_192
    sizes = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        arrays = jax.tree.map(lambda leaf, t=dtype: np.ones(leaf.shape, t), d)
        save_file(_flatten(arrays), tmp_path / "d.safetensors")
        sizes[dtype] = (tmp_path / "d.safetensors").stat().st_size
    assert 1_056_768 < sizes[jnp.float32] < 1_060_000
    assert 528_384 < sizes[jnp.bfloat16] < 530_000


def params_of(sites):
    params = {}
    for site in sites:
        node = params
        for name in site.path:
            node = node.setdefault(name, {})
        node["kernel"] = jax.ShapeDtypeStruct((*site.stack, *site.kernel_shape), jnp.bfloat16)
    return params


def test_a_base_in_another_type_is_the_same_base(tmp_path):
    adapter, variables = made()
    narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), variables["params"])
    save_adapter(tmp_path / "a", adapter, {**variables, "params": narrow}, "base")
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), narrow)
    load_adapter(tmp_path / "a", wide)


def test_another_base_is_refused_unless_allowed(tmp_path):
    adapter, variables = save(tmp_path / "a")
    other = jax.tree.map(lambda p: p * 1.1, variables["params"])
    with pytest.raises(ValueError, match="made for the base 'base/name' with fingerprint"):
        load_adapter(tmp_path / "a", other)
    loaded, _ = load_adapter(tmp_path / "a", other, allow_other_base=True)
    assert loaded == adapter


def test_a_base_of_other_shapes_is_refused(tmp_path):
    save(tmp_path / "a")
    other = nn.Sequential([nn.Dense(10), nn.tanh, nn.Dense(6)]).init(jax.random.key(0), X)["params"]
    with pytest.raises(ValueError, match=r"layer 'layers_0' with kernels \(8, 12\).*\(8, 10\)"):
        load_adapter(tmp_path / "a", other)
    with pytest.raises(ValueError, match="this base has none there"):
        load_adapter(tmp_path / "a", {"layers_0": {"bias": jnp.ones(3)}})


def test_another_seed_is_refused_by_the_fingerprint(tmp_path):
    _, variables = save(tmp_path / "a")
    rewrite(tmp_path / "a", lambda description: description["config"].update(seed=1))
    with pytest.raises(ValueError, match="frozen network of fingerprint"):
        load_adapter(tmp_path / "a", variables["params"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="other"), "has format and version"),
        (lambda d: d.update(version=3), "has format and version"),
        (lambda d: d.update(method="nora"), "is of method 'nora'"),
    ],
)
def test_a_foreign_description_is_refused(tmp_path, change, message):
    _, variables = save(tmp_path / "a")
    rewrite(tmp_path / "a", change)
    with pytest.raises(ValueError, match=message):
        load_adapter(tmp_path / "a", variables["params"])


def test_missing_and_damaged_files_are_refused(tmp_path):
    _, variables = save(tmp_path / "a")
    params, arrays = variables["params"], tmp_path / "a" / "adapter.safetensors"
    with pytest.raises(FileNotFoundError, match=r"adapter\.json does not exist"):
        load_adapter(tmp_path / "b", params)
    whole = arrays.read_bytes()
    arrays.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match="is damaged"):
        load_adapter(tmp_path / "a", params)
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    arrays.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"is damaged \(its checksum is another\)"):
        load_adapter(tmp_path / "a", params)
    arrays.write_bytes(whole)
    load_adapter(tmp_path / "a", params)
    arrays.unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter\.safetensors does not exist"):
        load_adapter(tmp_path / "a", params)
    (tmp_path / "a" / "adapter.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_adapter(tmp_path / "a", params)


def test_missing_extra_and_misshapen_arrays_are_refused(tmp_path):
    _, variables = save(tmp_path / "a")
    path = tmp_path / "a" / "adapter.safetensors"
    arrays = load_file(path)
    name = next(iter(arrays))

    def write(arrays):
        sums = {path.name: save_arrays(path, arrays)}
        rewrite(tmp_path / "a", lambda description: description.update(arrays=sums))

    write({key: value for key, value in arrays.items() if key != name})
    with pytest.raises(ValueError, match=rf"lacks the arrays \['{name}'\]"):
        load_adapter(tmp_path / "a", variables["params"])
    write({**arrays, "more": arrays[name]})
    with pytest.raises(ValueError, match=r"has \['more'\] too many"):
        load_adapter(tmp_path / "a", variables["params"])
    write({**arrays, name: arrays[name][:-1]})
    with pytest.raises(ValueError, match=name):
        load_adapter(tmp_path / "a", variables["params"])


def test_a_directory_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    adapter, variables = made()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("keep")
    for write in (
        lambda: save_adapter(tmp_path / "a", adapter, variables, "base"),
        lambda: save_orbax(tmp_path / "a", variables["params"], {}),
    ):
        with pytest.raises(FileExistsError, match="not empty"):
            write()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["mine"]


def test_nothing_appears_when_the_check_fails(tmp_path):
    def check(path):
        raise ValueError("another bit")

    with pytest.raises(ValueError, match="another bit"):
        write_checked(tmp_path / "a", lambda path: (path / "f").write_text("x"), check)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_orbax_restores_the_same_bits(tmp_path, dtype):
    adapter, variables = made()
    params = jax.tree.map(lambda p: p.astype(dtype), variables["params"])
    merged = adapter.merge({**variables, "params": params})
    save_orbax(tmp_path / "m", merged, {"model_type": "llama"})
    found = load_orbax(tmp_path / "m", jax.eval_shape(lambda: params))
    for a, b, c in zip(*map(jax.tree.leaves, (found, merged, params)), strict=True):
        assert a.dtype == dtype
        assert jnp.array_equal(a, b)
        assert jnp.array_equal(a, c) == (a.ndim == 1)  # kernels changed, biases did not


@pytest.mark.parametrize("with_frozen", [False, True])
@pytest.mark.parametrize("sharing", quick_only(["shape"], ["shape", "none"]))
@pytest.mark.parametrize("structure", quick_only(["hadamard"], ["hadamard_factor", "hadamard"]))
def test_an_adapter_with_transforms_survives_the_round_trip(
    tmp_path, with_frozen, sharing, structure
):
    model, x = nn.Dense(6), jnp.asarray(np.random.default_rng(0).standard_normal((3, 70)))
    x = x.astype(jnp.float32)
    config = TeRA(num_modes=2, structure=structure, sharing=sharing, dtype="bfloat16")
    adapter = adapt(nn.Sequential([model]), x, config=config, targets=["*"])
    params = nn.Sequential([model]).init(jax.random.key(0), x)["params"]
    frozen = initial.frozen(adapter, params)
    d = jax.tree.map(lambda v: v + 0.25, initial.d(adapter, params, frozen))
    variables = {"params": params, "frozen": frozen, "d": d}
    save_adapter(tmp_path / "a", adapter, variables, "base", with_frozen)
    loaded, found = load_adapter(tmp_path / "a", params)
    assert loaded == adapter
    last = sorted(leaf.shape for leaf in jax.tree.leaves(found["frozen"]))[-2:]
    assert last == [(70,), (70, 2, 3) if structure == "hadamard_factor" else (70,)]
    assert all(map(jnp.array_equal, jax.tree.leaves(found), jax.tree.leaves(variables)))
