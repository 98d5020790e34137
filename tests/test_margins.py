"""``pytest --margins=FILE``, on a file of tests of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
import numpy as np
import pytest
from tests.margins import close, within

@pytest.mark.parametrize("limit", [0.8, 4.0])
def test_a_limit(limit):
    for error in (0.1, 0.4, 0.2):
        within(error, limit)

def test_arrays():
    np.testing.assert_allclose([1.0, 2.0, np.inf], [1.0, 2.1, np.inf], rtol=0.1)
    close([1.0], [1.0], rtol=1e-3)

def test_a_number():
    assert 1.0 == pytest.approx(1.25, abs=1.0)

def test_draws():
    within(0.5, 1.0, of_draws=True)

def test_above_its_limit():
    within(2.0, 1.0)
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    directory = tmp_path_factory.mktemp("margins")
    (directory / "test_sample.py").write_text(TESTS)
    file = directory / "margins.json"
    command = [sys.executable, "-m", "pytest", "-q", f"--margins={file}", "-p", "tests.conftest"]
    done = subprocess.run(
        [*command, f"--rootdir={directory}", str(directory / "test_sample.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done, json.loads(file.read_text())


def test_the_smallest_margin_of_each_comparison_is_listed_least_first(ran):
    done, rows = ran
    found = [(row["test"].rpartition("::")[2], row["margin"], row["of_draws"]) for row in rows]
    by_name = {name: margin for name, margin, _ in found}
    assert [margin for _, margin, _ in found] == sorted(by_name.values())
    assert by_name.pop("test_arrays") == pytest.approx(2.1)
    assert by_name == pytest.approx(
        {"test_a_limit[0.8]": 2, "test_a_limit[4.0]": 10, "test_a_number": 4, "test_draws": 2}
    )
    assert [name for name, _, draws in found if draws] == ["test_draws"]
    assert "2 = 0.8 / 0.4  " in done.stdout


def test_a_comparison_that_fails_fails_its_test_and_has_no_margin(ran):
    done, rows = ran
    assert "1 failed, 5 passed" in done.stdout
    assert not any("above" in row["test"] for row in rows)
