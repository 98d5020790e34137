"""The sweeps of the benchmark of training steps."""

import math

import jax.numpy as jnp
import pytest

from benchmarks import steps
from benchmarks.cases import ALL, FROZEN, QV
from benchmarks.steps import Measurement
from benchmarks.sweeps import axes, choices, schemes, sweep
from tera_jax.methods import TABLE
from tera_jax.network.tensorization import Tensorization


def test_sweeps_cover_what_they_name():
    tokens = list(sweep("tokens", 32, 256, 4096, "dots"))
    assert sorted({case.rows * case.length for case in tokens}) == [2**k for k in range(9, 16)]
    orders = [Tensorization.parse(scheme) for scheme in schemes(4096)]
    assert [scheme.order for scheme in orders] == [2, 3, 4, 5, 7, 13, 24]
    assert {scheme.shape for scheme in orders} == {(4096, 4096)}
    assert len(list(sweep("order", 1, 8, 64, "dots"))) == len(schemes(64)) + 1
    assert {case.targets for case in sweep("targets", 1, 8, 64, "dots")} >= {QV, ALL}
    assert {case.method for case in sweep("methods", 1, 8, 64, "dots")} == {FROZEN, *TABLE}
    own = {case.method: case for case in sweep("methods", 1, 8, 64, "dots")}
    published = {case.method: case for case in sweep("methods", 1, 8, 4096, "dots")}
    assert own["ln_tuning"].targets == ("*norm",)
    assert own["vblora"].fields == (("vector_length", 64),)
    assert [name for name, case in published.items() if case.fields] == ["quanta"]
    assert math.prod(axes(4096)) == 4096
    with pytest.raises(ValueError, match="power of two, not 576"):
        schemes(576)


@pytest.mark.long
def test_every_method_of_the_sweep_is_measured():
    bench = steps.Bench(steps.TINY, jnp.float32, steps=2)
    for case in sweep("methods", 1, 8, 64, "none"):
        if case.method in ("quanta", "mora", "loretta"):  # the defaults are for larger kernels
            assert math.isfinite(bench.measure(case).last_loss)


def test_routes_that_a_network_does_not_have_are_left_out():
    assert {case.route for case in sweep("tokens", 1, 8, 64, "dots")} == {"", "through", "build"}
    large = {case.route for case in sweep("tokens", 1, 8, 4096, "dots")}
    assert large == {"", "through", "project", "build"}


def test_the_chosen_route_is_compared_with_the_fastest(monkeypatch):
    monkeypatch.setattr("tera_jax.network.cost_model.route", lambda *_, **__: "build")
    rows = [
        Measurement("frozen", 512, step_seconds=0.001),
        Measurement("tera through", 512, step_seconds=0.004),
        Measurement("tera build", 512, step_seconds=0.005),
        Measurement("tera through", 8192, step_seconds=0.004),
        Measurement("tera build", 8192, note="out of memory"),
    ]
    head, rule, few, many = choices(rows, 4096)
    assert few == "| 512 | through | 4.00 | build | 5.00 | 1.250 |"
    assert "out of memory" in many
    assert {line.count("|") for line in (head, rule, few, many)} == {7}
