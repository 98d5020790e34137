"""A store of adapters: what is put is there, whatever happens meanwhile."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tera_jax.serve.store import Store, UnknownAdapterError, record
from tests.tera_jax.serve.store import kills

SHAPES = {"q/d0": (2, 3), "q/d1": (4,)}


def arrays(seed):
    draw = np.random.default_rng(seed)
    return {name: draw.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "s", SHAPES, {"method": "m"}, "float32", shard_rows=2) as made:
        yield made


def same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_adapters_are_kept_replaced_and_taken_out(store):
    versions = [store.put(f"n{i}", arrays(i)) for i in range(5)]
    assert len({*versions}) == len(store) == 5
    for i in range(5):
        entry = store.get(f"n{i}")
        same(entry.arrays, arrays(i))
        assert (entry.name, entry.version) == (f"n{i}", versions[i])
    newer = store.put("n2", arrays(7))
    assert newer == store.version("n2") not in versions
    store.delete("n0")
    with Store.open(store.directory) as other:
        same(other.get("n2").arrays, arrays(7))
        same(other.get("n3").arrays, arrays(3))
        assert [*other] == ["n1", "n2", "n3", "n4"]
        assert "n0" not in other
        assert other.names("n2", most=1) == ["n3"]
        assert other.description == {"method": "m"}
    for use in (store.get, store.delete):
        with pytest.raises(UnknownAdapterError, match="no adapter 'n0'"):
            use("n0")


def test_rows_of_old_versions_are_used_again(store):
    for i in range(40):
        store.put(f"n{i % 3}", arrays(i))
    rows = sum(file.stat().st_size for file in (store.directory / "shards").iterdir())
    assert rows <= 5 * store.layout.size
    for i in range(37, 40):
        same(store.get(f"n{i % 3}").arrays, arrays(i))


def test_bfloat16_rounds_to_the_nearest(tmp_path):
    with Store.create(tmp_path / "s", SHAPES, {}) as store:
        store.put("a", arrays(0))
        found = store.get("a").arrays
    expected = {name: value.astype(ml_dtypes.bfloat16) for name, value in arrays(0).items()}
    same(found, expected)
    assert store.layout.size == 2 * 10


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "", "a b", "é", "a" * 201, ".x", "a/.."])
def test_names_are_no_paths(store, name):
    with pytest.raises(ValueError, match="is no name of an adapter"):
        store.put(name, arrays(0))
    assert len(store) == 0
    store.put("org/ana:v1.2_3-4", arrays(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("q/d0"), "lacks the arrays"),
        (lambda a: a.update(z=a["q/d0"]), r"has \['z'\] too many"),
        (lambda a: a.update({"q/d1": np.zeros(5, np.float32)}), r"q/d1 is \(5,\)"),
        (lambda a: a.update({"q/d1": np.zeros(4)}), "q/d1 is float64"),
        (lambda a: a.update({"q/d1": np.full(4, np.nan, np.float32)}), "q/d1 has NaN"),
    ],
)
def test_other_arrays_are_refused_and_nothing_changes(store, change, message):
    store.put("a", arrays(1))
    wrong = arrays(2)
    change(wrong)
    with pytest.raises(ValueError, match=message):
        store.put_all([("b", arrays(3)), ("a", wrong)])
    assert [*store] == ["a"]
    same(store.get("a").arrays, arrays(1))


def test_a_number_that_bfloat16_cannot_hold_is_refused():
    wide = {"x": np.full(1, 3.4e38, np.float32)}
    with pytest.raises(ValueError, match="NaN or infinity in bfloat16"):
        record.pack(wide, record.layout({"x": (1,)}, "bfloat16"))


@pytest.mark.parametrize("byte", [0, 17, 39])
def test_a_changed_byte_is_seen(store, byte):
    store.put("a", arrays(0))
    file = store.directory / "shards" / "000000.bin"
    data = bytearray(file.read_bytes())
    data[byte] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"record of 'a' .* is damaged"):
        store.get("a")


def test_a_record_of_another_name_is_no_record(store):
    store.put_all([("a", arrays(0)), ("b", arrays(1))])
    file = store.directory / "shards" / "000000.bin"
    data, size = file.read_bytes(), store.layout.size
    file.write_bytes(data[size:] + data[:size])
    with pytest.raises(ValueError, match="damaged"):
        store.get("a")


def test_readers_see_whole_adapters_while_others_write(store):
    store.put("a", {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()})
    stop = threading.Event()

    def write():
        with Store.open(store.directory) as other:
            for value in range(1, 60):
                filled = {n: np.full(s, value, np.float32) for n, s in SHAPES.items()}
                other.put_all([("a", filled), ("b", filled)])
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not stop.is_set() or not seen:
        values = {float(v) for array in store.get("a").arrays.values() for v in array.ravel()}
        assert len(values) == 1
        seen.append(values.pop())
    writer.join()
    assert seen == sorted(seen)


def test_a_directory_with_other_things_is_left_alone(tmp_path, store):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "index.sqlite").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        Store.create(tmp_path / "o", SHAPES, {})
    assert (tmp_path / "o" / "index.sqlite").read_text() == "mine"
    with pytest.raises(FileExistsError, match="is not empty"):
        Store.create(store.directory, SHAPES, {})
    with pytest.raises(FileNotFoundError, match="name a store, or make one"):
        Store.open(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "format and version 'x' 2"),
        ({"dtype": "int8"}, "dtype"),
        ({"shapes": {"a": [0]}}, "arrays with entries"),
        ({"shard_rows": 0}, "shard_rows"),
    ],
)
def test_a_description_that_was_changed_is_refused(store, change, message):
    file = store.directory / "store.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        Store.open(store.directory)


def test_a_damaged_index_is_named(store):
    store.put("a", arrays(0))
    store.close()
    (store.directory / "index.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(ValueError, match=r"index\.sqlite is damaged"):
        Store.open(store.directory)


FULL = """
import sys
from tera_jax.serve.store import Store
import numpy as np, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
big = {"x": np.ones(100_000, np.float32)}
with Store.open(sys.argv[1]) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
    try:
        store.put("b", {"x": 2 * big["x"]})
    except OSError as error:
        print(type(error).__name__)
    print([*store], float(store.get("a").arrays["x"].max()))
"""


def test_a_full_disk_loses_nothing(tmp_path):
    with Store.create(tmp_path / "s", {"x": (100_000,)}, {}, "float32") as store:
        store.put("a", {"x": np.ones(100_000, np.float32)})
        found = subprocess.run(
            [sys.executable, "-c", FULL, store.directory], capture_output=True, text=True
        )
        assert found.stdout.splitlines() == ["OSError", "['a'] 1.0"], found.stderr
        store.put("b", {"x": np.ones(100_000, np.float32)})
        assert [*store] == ["a", "b"]


def test_killed_writers_lose_nothing(tmp_path):
    run_kills(tmp_path, 15)


@pytest.mark.long
def test_many_killed_writers_lose_nothing(tmp_path):
    run_kills(tmp_path, 200)


def run_kills(tmp_path, count):
    """In a process without JAX, whose threads do not survive a fork."""
    code = f"from {kills.__name__} import main, Path; main(Path({str(tmp_path / 's')!r}), {count})"
    root = Path(__file__).parents[4]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert found.stdout.startswith(f"{count} kills, "), found.stderr


def test_the_store_and_what_a_server_needs_beside_it_import_no_jax():
    code = """
import sys
from tera_jax.serve import engine_config, requests, store
from tera_jax.serve.engine import adapter_source, answer, lru, waiting
print('jax' in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "False", found.stderr
