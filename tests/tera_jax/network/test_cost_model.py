import itertools

import pytest

from tera_jax.methods import TargetLayer
from tera_jax.methods.tera import TeRA
from tera_jax.network import cost_model
from tera_jax.network.cost_model import Device, Network
from tera_jax.network.tensorization import Tensorization
from tests.tera_jax.methods.one_layer import on_layer


def of(text, structure="dense"):
    return Network(Tensorization.parse(text), structure)


def test_few_tokens_stay_activations_and_many_build():
    rates = cost_model.device("NVIDIA H100 80GB HBM3")
    rank = {"through": 0, "project": 1, "build": 2}

    def choices(structure, readers):
        network = of("4096|8x8x8x8", structure)
        return [rank[cost_model.route(network, 2**k, rates, readers)] for k in range(18)]

    for structure, readers in itertools.product(("dense", "hadamard_factor"), (1, 2)):
        found = choices(structure, readers)
        assert found == sorted(found)
        assert {*found} == {0, 1, 2}
        # The batch is multiplied with the factor while it is smaller than the kernels that share it
        assert found[12 + readers - 1 : 12 + readers + 1] == [1, 2]
    assert sum(choices("hadamard_factor", 1)) > sum(choices("dense", 1))  # from fewer tokens on


@pytest.mark.parametrize(
    ("structure", "readers", "at"),
    [
        # 1 + 4 / 64 products of 4096^3 and, with one reader, 2 of T 4096^2 against 4 + 4 / 64.
        ("dense", 1, [(2060, "through"), (2160, "project"), (4000, "project"), (4200, "build")]),
        # With two, 3/2 of T 4096^2.
        ("dense", 2, [(1650, "through"), (1750, "project"), (8100, "project"), (8300, "build")]),
        # With a transform of two factors 6 / 64 of 4096^3 and 1 + 2 / 64 against 2 + 8 / 64.
        (
            "hadamard_factor",
            1,
            [(300, "through"), (400, "project"), (4000, "project"), (4200, "build")],
        ),
    ],
)
def test_the_choice_by_arithmetic_alone(structure, readers, at):
    endless = Device(1e12, 1e30)
    for tokens, expected in at:
        assert cost_model.route(of("4096|8x8x8x8", structure), tokens, endless, readers) == expected


def test_with_a_fast_core_nothing_is_built_and_differentiated():
    rates = cost_model.device("H100")
    for text in ("4096|8x8x8x8", "4096|4x4x8x8"):
        network = of(text, "hadamard")
        found = [cost_model.route(network, 2**k, rates) for k in range(18)]
        assert sorted(found, key=["through", "project"].index) == found
        assert {*found} == {"through", "project"}
    # With a dense core the kernel of many tokens is built, and only once.
    assert cost_model.route(of("4096|8x8x8x8", "hadamard_factor"), 2**17, rates) == "build"


def test_the_kernels_of_a_structured_network_are_for_whole_programs_and_equal_groups():
    structured = of("4096|8x8x8x8", "hadamard")
    assert structured.is_structured(4096)
    assert of("4096|4x4x8x8", "hadamard").is_structured(32)
    for other in (
        structured._replace(structure="dense"),
        structured._replace(structure="hadamard_factor"),
        of("8x8x8x8|4096"),
        of("64|8x8", "hadamard"),
        of("4096|4096", "hadamard"),
    ):
        assert not other.is_structured(4096)
    assert not structured.is_structured(4100)


def test_without_one_wide_mode_of_the_input_nothing_is_projected():
    for text in ("8x8x8x8|4096", "64x64|64x64"):
        rates = cost_model.device("H100")
        assert {cost_model.route(of(text), 2**k, rates) for k in range(18)} == {"through", "build"}


def test_a_method_chooses_its_route_by_its_structure_and_its_layers(monkeypatch):
    shape, asked = (4096, 4096), []
    monkeypatch.setattr(cost_model, "route", lambda *args: asked.append(args) or "build")
    q, v = (TargetLayer(("attn", name), shape) for name in "qv")
    for fields, layers, expected in (
        ({}, (q,), ("dense", 1)),
        ({}, (q, v), ("dense", 2)),
        ({}, (q, TargetLayer(("mlp", "down"), shape)), ("dense", 1)),
        ({}, (q, TargetLayer(("attn", "k"), (4096, 1024))), ("dense", 1)),
        ({"structure": "hadamard_factor"}, (q, v), ("hadamard_factor", 2)),
        ({"structure": "hadamard"}, (q, v), ("hadamard", 2)),
        ({"sharing": "module"}, (q, v), ("dense", 1)),
        ({"sharing": "none"}, (q, v), ("dense", 1)),
    ):
        assert on_layer(TeRA(**fields), layers).materializes(8)
        network, tokens, rates, readers = asked.pop()
        assert (network.structure, readers) == expected
        assert (tokens, rates) == (8, cost_model.device())


def test_an_unknown_device_gets_the_rates_of_an_h100_and_the_log_says_so_once(caplog):
    known = cost_model.device("NVIDIA H100 80GB HBM3")
    assert cost_model.device("cpu") != known
    assert not caplog.records
    for _ in range(2):
        assert cost_model.device("abacus 3") == known
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.name.startswith("tera_jax.")
    assert "'abacus 3'" in record.getMessage()
    assert "H100 (700 TFLOP/s, 3.0 TB/s)" in record.getMessage()
    cost_model.device("abacus 4")
    assert len(caplog.records) == 2
