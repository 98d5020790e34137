"""The curve of a run's losses: a picture where matplotlib is installed, else letters."""

import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .training import kept
from .training.callbacks import Event

_WIDTH, _HEIGHT = 64, 12
_EVERY = 1.0
"""Seconds between two drawings."""


class Curve:
    """The losses of a run, which a notebook shows as a picture and a terminal in letters.

    Args:
        history: lines of ``metrics.jsonl``: ``step`` and ``loss`` or ``held_out_loss``.
    """

    def __init__(self, history: Sequence[Mapping[str, Any]]) -> None:
        self.training = [(row["step"], row["loss"]) for row in history if "loss" in row]
        self.held_out = [
            (row["step"], row["held_out_loss"]) for row in history if "held_out_loss" in row
        ]

    def figure(self) -> Any:
        """A figure of matplotlib.

        Raises:
            ImportError: when it is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "a figure needs pip install matplotlib; print(curve) needs nothing"
            ) from error
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="loss (nats/token)")
        for points, style, label in (
            (self.training, "-", "training"),
            (self.held_out, "o-", "held-out"),
        ):
            if points:
                axes.plot(*zip(*points, strict=True), style, label=label)
        if self.training or self.held_out:
            axes.legend()
        return figure

    def _repr_png_(self) -> bytes | None:
        """For notebooks; None, and so the letters, without matplotlib."""
        try:
            figure = self.figure()
        except ImportError:
            return None
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()

    def __repr__(self) -> str:
        points = [*self.training, *self.held_out]
        if not points:
            return "no losses yet"
        steps, losses = zip(*points, strict=True)
        first, last, least, most = min(steps), max(steps), min(losses), max(losses)
        cells = [[" "] * _WIDTH for _ in range(_HEIGHT)]
        for mark, marked in ((".", self.training), ("o", self.held_out)):
            for step, loss in marked:
                column = round((step - first) / max(1, last - first) * (_WIDTH - 1))
                row = round((most - loss) / ((most - least) or 1) * (_HEIGHT - 1))
                cells[row][column] = mark
        edges = {0: f"{most:8.4f}", _HEIGHT - 1: f"{least:8.4f}"}
        lines = [f"{edges.get(row, ''):>8} |{''.join(line)}" for row, line in enumerate(cells)]
        below = f"{first:<{_WIDTH // 2}}{last:>{_WIDTH - _WIDTH // 2}}"
        return "\n".join([*(line.rstrip() for line in lines), f"{'step':>8}  {below}"]) + (
            "\n" + " " * 10 + ". training   o held-out   (nats/token)"
        )


class LiveCurve:
    """A callback that draws the curve into a notebook's cell while the run goes on."""

    def __init__(self) -> None:
        self._history: list[dict[str, Any]] = []
        self._handle: Any = None
        self._drawn = 0.0

    def on_start(self, event: Event) -> None:
        """Take the losses of the steps that a resumed run has behind it."""
        self._history = kept.lines(event.workdir / "metrics.jsonl")

    def on_step(self, event: Event) -> None:
        """Take the step's loss."""
        self._history.append({"step": event.step, "loss": event.loss})
        self._draw()

    def on_eval(self, event: Event) -> None:
        """Take the held-out loss."""
        self._history.append({"step": event.step, "held_out_loss": event.held_out_loss})
        self._draw()

    def on_end(self, event: Event) -> None:
        """Draw the whole."""
        del event
        self._draw(now=True)

    def _draw(self, now: bool = False) -> None:
        if not now and time.monotonic() - self._drawn < _EVERY:
            return
        from IPython.display import display

        curve = Curve(self._history)
        if self._handle is None:
            self._handle = display(curve, display_id=True)
        else:
            self._handle.update(curve)
        self._drawn = time.monotonic()


def in_notebook() -> bool:
    """Whether what is displayed appears in a notebook."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
