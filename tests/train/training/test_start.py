"""A run that starts from an adapter, ours or PEFT's; and what is refused."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.io.adapter_files import save_adapter, save_peft
from train import pipeline
from train.config import default, parse
from train.training import run as runs
from train.training.data_identity import kept_counts
from train.training.start import require_start, with_start

pytestmark = pytest.mark.long


def make_run(tiny_llama, records_path, name="lora", **settings):
    from tests.train.conftest import make_config

    config = make_config(tiny_llama, records_path)
    config.method = {**default(name).method.to_dict(), **settings}
    config.evaluate.path = None
    return runs.build(parse(config))


def moved(run, seed=0):
    random = np.random.default_rng(seed)
    d = runs.init_d(run)
    return jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.1 * random.standard_normal(leaf.shape), leaf.dtype), d
    )


@pytest.fixture(scope="module")
def world(tiny_llama, records_path, tmp_path_factory):
    """Runs of LoRA and TeRA, an adapter of each in our format, and the LoRA in PEFT's."""
    place = tmp_path_factory.mktemp("adapters")
    made = {
        "lora": make_run(tiny_llama, records_path, rank=2, dropout=0.1),
        "tera": make_run(tiny_llama, records_path, "tera", num_modes=2),
    }
    d = {name: moved(run) for name, run in made.items()}
    for name, run in made.items():
        save_adapter(place / name, run.adapter, run.variables(d[name]), "tiny")
    run = made["lora"]
    save_peft(place / "peft", run.adapter, run.variables(d["lora"]), "tiny")
    return made, d, place


def naming(run, path, **method):
    """The run with ``config.model.adapter``, and other settings of its method."""
    config = run.config
    settings = dataclasses.replace(config.method.settings, **method)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, adapter=str(path)),
        method=dataclasses.replace(config.method, settings=settings),
    )
    return run._replace(config=config, adapter=runs.make_adapter(config, run.model))


def equal(a, b):
    return all(map(np.array_equal, *map(jax.tree.leaves, (a, b))))


@pytest.mark.parametrize("seed", [0, 3])
def test_training_starts_from_a_vera_adapter_of_peft(tiny_llama, records_path, tmp_path, seed):
    """Its projections are read from the file, and must be those that the run draws."""
    run = make_run(tiny_llama, records_path, "vera", rank=4, seed=seed, dropout=0.1)
    d = moved(run)
    save_peft(tmp_path / "vera", run.adapter, run.variables(d), "tiny")
    started = with_start(naming(run, tmp_path / "vera"))
    assert equal(runs.first_d(started), d)
    assert not equal(runs.init_d(run), d)
    other = make_run(tiny_llama, records_path, "vera", rank=4, seed=seed + 1)
    with pytest.raises(ValueError, match="has a frozen network of fingerprint"):
        with_start(naming(other, tmp_path / "vera"))


@pytest.mark.parametrize(("method", "name"), [("lora", "lora"), ("tera", "tera"), ("lora", "peft")])
def test_training_starts_from_the_bits_of_the_adapter_and_a_new_optimizer(world, method, name):
    made, d, place = world
    run = with_start(naming(made[method], place / name))
    state, optimizer = runs.init_train_state(run, 10)
    assert equal(state.d, d[method])
    assert equal(runs.first_d(run), d[method])
    assert not equal(state.d, runs.init_d(run))
    assert equal(state.opt, optimizer.init(d[method]))
    layouts = [leaf.sharding for leaf in jax.tree.leaves(runs.abstract_state(run, optimizer))]
    assert [leaf.sharding for leaf in jax.tree.leaves(state)] == layouts
    with_start(naming(made["lora"], place / "lora", dropout=0.5))  # which is not the adapter's


def test_other_methods_settings_layers_and_seeds_are_refused(world):
    made, _, place = world
    lora, tera = made["lora"], made["tera"]
    refused = [
        (naming(lora, place / "tera"), "is of method 'tera', but config.method.name is 'lora'"),
        (naming(lora, place / "lora", rank=3), "config.method.rank is 3, there it is 2"),
        (naming(lora, place / "peft", rank=3), "config.method.rank is 3, there it is 2"),
        (naming(lora, place / "lora", alpha=3.0), "config.method.alpha is 3.0, there it is 8.0"),
        (naming(tera, place / "tera", seed=5), "config.method.seed is 5, there it is"),
    ]
    config = dataclasses.replace(
        lora.config, method=dataclasses.replace(lora.config.method, targets=("q_proj",))
    )
    narrow = naming(lora._replace(config=config), place / "lora")
    refused.append((narrow, r"adapts other layers: .*v_proj \(2, 32, 16\) only there"))
    for run, message in refused:
        with pytest.raises(ValueError, match=message):
            with_start(run)


def test_another_base_and_another_frozen_network_are_refused(world):
    made, _, place = world
    run = naming(made["tera"], place / "tera")
    other = jax.tree.map(lambda leaf: leaf * 1.5, run.params)
    with pytest.raises(ValueError, match="was made for the base 'tiny' with fingerprint"):
        with_start(run._replace(params=other))
    meta = run.meta._replace(frozen_fingerprint="0" * 16)
    with pytest.raises(ValueError, match=r"frozen network of fingerprint .* this run is 0000"):
        with_start(run._replace(meta=meta))


def test_a_directory_without_an_adapter_is_refused(world, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds neither adapter.json nor adapter_config"):
        require_start(str(tmp_path), world[0]["lora"].adapter)


def test_a_command_trains_on_from_an_adapter(world, tmp_path, tiny_llama, records_path):
    made, _, place = world
    tree = naming(made["lora"], place / "lora").config
    config = dataclasses.replace(
        tree,
        loop=dataclasses.replace(tree.loop, steps=4, eval_every=2),
        optim=dataclasses.replace(tree.optim, ema_decay=0.5),
    )
    trained = pipeline.train(config, tmp_path / "run")
    records = json.loads(Path(config.data.path).read_text())
    assert kept_counts(tmp_path / "run") == {"config.data.path": len(records)}
    plain = dataclasses.replace(config, model=dataclasses.replace(config.model, adapter=None))
    begun = pipeline.train(plain, tmp_path / "plain")
    assert trained.before["held-out"] != begun.before["held-out"]
