import pytest

from benchmarks import anchors, steps


@pytest.fixture(autouse=True)
def one_round(monkeypatch):
    """Of timed steps: nothing here depends on their time."""
    monkeypatch.setattr(anchors, "ROUNDS", 1)
    monkeypatch.setattr(steps, "_ROUNDS", 1)
