"""What a user's functions are told of a run, and when; each may end the training.

The order. ``on_start`` comes first, and ``on_end`` last. Between them each step has, in this order:

1. ``on_step``, once for every step. A step's numbers are fetched when the next is under way, so it
   comes one step late, but before what follows.
2. ``on_eval``, where the held-out loss was taken.
3. ``on_save``, once a checkpoint is on the disk.

Where several callbacks have the same function, they are called in the order in which they were
given. One that returns ``True`` ends the training: at the end of the step under way the held-out
loss is taken, a checkpoint is written, and ``on_end`` is called. ``on_end`` is not called where a
signal, an error or the end of the hours stops a run, which goes on later.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import distributed

EVENTS = ("on_start", "on_step", "on_eval", "on_save", "on_end")


@dataclasses.dataclass(frozen=True)
class Event:
    """What a callback is called with.

    Attributes:
        name: of the function that is called, of :data:`EVENTS`.
        step: that was taken last, counted from 1; 0 before the first.
        steps: that the run has in all.
        workdir: of the run.
        loss: of ``on_step``, in nats a target token.
        grad_norm: of ``on_step``.
        held_out_loss: of ``on_eval``, and of ``on_save`` where it was taken; in nats a token.
        checkpoint: of ``on_save``, its directory.
    """

    name: str
    step: int
    steps: int
    workdir: Path
    loss: float | None = None
    grad_norm: float | None = None
    held_out_loss: float | None = None
    checkpoint: Path | None = None


class Callbacks:
    """The callbacks of a run. Of several processes the first calls them.

    Args:
        given: objects with some of the functions of :data:`EVENTS`, or dictionaries of functions by
            these names. Each is called with an :class:`Event`.
        workdir: of the run.
        steps: that the run has in all.

    Raises:
        ValueError: for one that has none of the functions, or one of another name.
    """

    def __init__(self, given: Sequence[Any], workdir: Path, steps: int) -> None:
        require(given)
        self._given, self._workdir, self._steps = tuple(given), workdir, steps
        self._stop = False

    def stopping(self) -> bool:
        """Whether one has ended the training; all processes agree."""
        return bool(self._given) and distributed.agreed(self._stop)

    def call(self, name: str, step: int, **values: Any) -> None:
        """Call the functions of a name with what happened."""
        if not self._given or not distributed.is_main_process():
            return
        event = Event(name, step, self._steps, self._workdir, **values)
        for one in self._given:
            function = one.get(name) if isinstance(one, Mapping) else getattr(one, name, None)
            if function is None:
                continue
            answer = function(event)
            if isinstance(answer, bool | np.bool_) and answer:
                self._stop = True


def require(given: Sequence[Any]) -> None:
    """Raise ``ValueError`` for a callback with none of the functions, or one of another name."""
    for one in given:
        names = [*one] if isinstance(one, Mapping) else dir(one)
        for name in names:
            wrong = isinstance(one, Mapping) or str(name).startswith("on_")
            if wrong and name not in EVENTS:
                near = difflib.get_close_matches(str(name), EVENTS, n=1)
                remedy = f"did you mean {near[0]}?" if near else f"choose from {', '.join(EVENTS)}"
                raise ValueError(f"a callback has the unknown function {name!r}; {remedy}")
        if not {*names} & {*EVENTS}:
            raise ValueError(
                f"the callback {one!r} has none of the functions {', '.join(EVENTS)}; give an "
                "object with some of them, or a dictionary such as {'on_step': function}"
            )
