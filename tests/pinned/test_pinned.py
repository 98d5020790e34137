"""Values that no change of names or of structure may move."""

import json
from pathlib import Path

import pytest

from tests.pinned import settings

_EXPECTED = json.loads(Path(__file__).with_name("expected.json").read_text())


def named(rows, quick=None):
    """The rows of an expected table; those after the first ``quick`` are long."""
    return [
        pytest.param(
            row["settings"],
            row["sha256"],
            id=row["name"],
            marks=[] if quick is None or number < quick else [pytest.mark.long],
        )
        for number, row in enumerate(rows)
    ]


@pytest.mark.parametrize(("case", "expected"), named(_EXPECTED["networks"], 3))
def test_frozen_networks_are_those_of_old(case, expected):
    assert settings.digest(settings.frozen_network(case)) == expected
    other = {**case, "seed": case["seed"] + 1}
    assert settings.digest(settings.frozen_network(other)) != expected


@pytest.mark.parametrize(("case", "expected"), named(_EXPECTED["collections"]))
def test_frozen_collections_are_those_of_old(case, expected):
    assert settings.digest(settings.frozen_collection(case)) == expected


def test_the_digests_are_of_different_networks():
    rows = _EXPECTED["networks"] + _EXPECTED["collections"]
    assert len({row["sha256"] for row in rows}) == len(rows)


@pytest.mark.smollm2
@pytest.mark.long
def test_the_base_has_its_fingerprint(smollm2_path):
    base = _EXPECTED["base"]
    assert settings.fingerprint_of_base(smollm2_path, base["dtype"]) == base["fingerprint"]


@pytest.mark.smollm2
@pytest.mark.long
def test_the_quickstart_starts_with_the_losses_of_old():
    expected = _EXPECTED["losses"]
    losses = settings.first_losses(expected["settings"])
    assert losses == pytest.approx(expected["nats_per_token"], rel=1e-4)
