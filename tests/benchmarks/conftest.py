import pytest

from benchmarks import rounds


@pytest.fixture(autouse=True)
def one_round(monkeypatch):
    """Of timed steps: nothing here depends on their time."""
    monkeypatch.setattr(rounds, "ROUNDS", 1)
