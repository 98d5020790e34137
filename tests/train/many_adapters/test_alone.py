"""Adapters that are trained in one run are what each is when it is trained by itself."""

import itertools

import pytest

from tests.train.many_adapters import worlds
from train import many
from train.many_adapters import specification
from train.training import run as runs


@pytest.mark.long
@pytest.mark.parametrize("method", ["tera", "lora", "vera", "ia3", "prompt"])
def test_eight_adapters_are_what_each_is_alone(method, tiny_llama, tmp_path):
    settings = {
        "vera": ("--config.method.rank=8",),
        "prompt": ("--config.method.num_virtual_tokens=4",),
    }
    rates = {"vera": 0.03, "prompt": 0.3}
    steps = ({"learning_rate": rates[method]} if method in rates else {}) | {"steps": 50}
    file = worlds.write_people(tmp_path / "people", 8, **steps)
    more = settings.get(method, ())
    given = worlds.arguments(tiny_llama, file, tmp_path / "run", method, *more)
    many.main(given)
    found = specification.read(file, worlds.base(*given))
    run = runs.build(found[0].config)
    if method in ("lora", "prompt"):  # as train.main does it, each with a program of its own
        for each in found:
            worlds.require_alone(run, each, tmp_path / "run")
        return
    for each, ends in zip(found, worlds.all_alone(run, found), strict=True):
        worlds.require_ends(run, each, tmp_path / "run", *ends)


@pytest.mark.long
def test_64_adapters_on_a_mesh_are_what_every_third_is_alone(tiny_llama, tmp_path):
    file = worlds.write_people(tmp_path / "people", 64, steps=24)
    more = ("--active=16", "--config.mesh.data=2")
    given = worlds.arguments(tiny_llama, file, tmp_path / "run", "tera", *more)
    many.main(given)
    found = specification.read(file, worlds.base(*given[:-1]))[::3]  # of each rate
    run = runs.build(found[0].config)
    ends = []
    for each, (first, last) in zip(found, worlds.all_alone(run, found), strict=True):
        worlds.require_ends(run, each, tmp_path / "run", first, last)
        ends.append(last)
    assert all(worlds.distance(a, b) > 0.1 for a, b in itertools.combinations(ends, 2))
    assert len({*worlds.arrays(tmp_path / "run").values()}) == 64
