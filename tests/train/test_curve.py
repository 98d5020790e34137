"""The curve of the losses, with matplotlib and without."""

import json
import sys

import pytest

from train.curve import Curve, LiveCurve, in_notebook
from train.training.callbacks import Event

HISTORY = [
    {"step": 1, "loss": 3.0, "tokens_per_second": 1.0},
    {"step": 2, "loss": 2.0},
    {"step": 3, "loss": 1.0},
    {"step": 3, "held_out_loss": 2.5},
]


def test_a_terminal_gets_letters():
    lines = repr(Curve(HISTORY)).splitlines()
    assert lines[0].startswith("  3.0000 |.")
    assert lines[-3].startswith("  1.0000 |")
    assert lines[-3].endswith(".")
    assert sum(line.count("o") for line in lines[:-2]) == 1
    assert repr(Curve([])) == "no losses yet"
    assert "5" in repr(Curve([{"step": 5, "loss": 1.0}]))


def test_a_notebook_gets_a_picture_where_matplotlib_is_installed(monkeypatch):
    curve = Curve(HISTORY)
    assert curve._repr_png_().startswith(b"\x89PNG")
    (axes,) = curve.figure().axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[3.0, 2.0, 1.0], [2.5]]
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert curve._repr_png_() is None
    with pytest.raises(ImportError, match="needs pip install matplotlib"):
        curve.figure()
    assert "held-out" in repr(curve)


def test_the_live_one_is_drawn_again_as_losses_come(monkeypatch, tmp_path):
    shown = []

    class Handle:
        def update(self, curve):
            shown.append(repr(curve))

    def display(curve, display_id):
        assert display_id
        shown.append(repr(curve))
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr("train.curve._EVERY", 0)
    live = LiveCurve()
    for step in (1, 2):
        live.on_step(Event("on_step", step, 2, tmp_path, loss=1.0 / step))
    live.on_eval(Event("on_eval", 2, 2, tmp_path, held_out_loss=0.7))
    live.on_end(Event("on_end", 2, 2, tmp_path))
    assert len(shown) == 4
    assert len({*shown}) == 3  # the last is drawn whole
    assert not in_notebook()


def test_the_live_one_of_a_resumed_run_begins_with_the_losses_before(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda curve, display_id: shown.append(curve))
    lines = "".join(json.dumps(row) + "\n" for row in HISTORY)
    (tmp_path / "metrics.jsonl").write_text(lines)
    live = LiveCurve()
    live.on_start(Event("on_start", 3, 3, tmp_path))
    live.on_end(Event("on_end", 3, 3, tmp_path))
    assert shown[0].training == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert shown[0].held_out == [(3, 2.5)]
