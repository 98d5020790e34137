"""The benchmark of stores runs, and its adapters differ."""

import sys

import numpy as np

from benchmarks import store
from tera_jax.serve.store import Store


def test_a_store_is_filled_once_and_read(tmp_path, monkeypatch, capsys):
    flags = [f"--directory={tmp_path / 's'}", "--count=20", "--numbers=50", "--reads=5"]
    monkeypatch.setattr(sys, "argv", ["store", *flags])
    store.main()
    assert "20 adapters put in" in capsys.readouterr().out
    store.main()
    shown = capsys.readouterr().out
    assert "put in" not in shown
    assert "of which its numbers are 100\n" in shown
    assert len([line for line in shown.splitlines() if line.startswith(("| cold", "| warm"))]) == 2
    assert len([line for line in shown.splitlines() if line.startswith(("| 5 ", "| 0.2 "))]) == 2
    with Store.open(tmp_path / "s") as found:
        rows = {found.get(name).arrays["d"].tobytes() for name in found}
    assert len(rows) == len(list(store.adapters(20, 50))) == 20
    assert np.isfinite(next(store.adapters(1, 3))[1]["d"]).all()
