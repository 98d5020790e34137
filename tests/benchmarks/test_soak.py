import pytest

from benchmarks import soak


@pytest.mark.long
def test_some_seconds_of_traffic(capsys, monkeypatch):
    monkeypatch.setattr(soak, "ADAPTERS", 10)
    soak.main(["--minutes=0.33"])
    printed = capsys.readouterr().out
    assert "0 answers changed" in printed
    assert "10 adapters answered" in printed
    for status in (200, 400, 404, 413):
        assert f"{status}: " in printed
