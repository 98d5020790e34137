"""Where each adapter stands: kept on the host, and as JSON in every checkpoint."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

LAST = 10
"""Steps whose mean loss is an adapter's training loss."""


@dataclasses.dataclass
class Progress:
    """Of one adapter.

    Attributes:
        name: of the adapter.
        status: ``waiting`` for a slot, ``active`` in one, ``finished`` and written, or ``failed``.
        slot: in which it is trained.
        taken: steps.
        position: of its stream, examples fed.
        losses: of its last steps, in nats a target token.
        seconds: its share of the steps' time.
        before: held-out loss of its first d.
        after: of its last.
        reason: why it failed.
    """

    name: str
    status: Literal["waiting", "active", "finished", "failed"] = "waiting"
    slot: int | None = None
    taken: int = 0
    position: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    before: float | None = None
    after: float | None = None
    reason: str = ""

    @property
    def train_loss(self) -> float | None:
        """The mean of the last steps."""
        return sum(self.losses) / len(self.losses) if self.losses else None

    def add_loss(self, loss: float) -> None:
        """Take the loss of a step."""
        self.losses = [*self.losses, loss][-LAST:]

    def fail(self, reason: str) -> None:
        """End it without an adapter."""
        self.status, self.slot, self.reason = "failed", None, reason


@dataclasses.dataclass
class Board:
    """All adapters, and which slot is free from which step of the run on.

    Attributes:
        all: in the order of the run.
        free_from: of each slot the first step, counted from 1, that another adapter may have it in.
    """

    all: list[Progress]
    free_from: list[int]

    @classmethod
    def new(cls, names: Sequence[str], active: int) -> "Board":
        """Nothing has begun."""
        return cls([Progress(name) for name in names], [1] * active)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Board":
        """What :meth:`to_json` gave."""
        return cls([Progress(**each) for each in saved["adapters"]], [*saved["free_from"]])

    def to_json(self) -> dict[str, Any]:
        """Of plain values."""
        return {
            "adapters": [dataclasses.asdict(each) for each in self.all],
            "free_from": [*self.free_from],
        }

    def occupants(self) -> list[Progress | None]:
        """The adapter of each slot."""
        found: list[Progress | None] = [None] * len(self.free_from)
        for each in self.all:
            if each.status == "active" and each.slot is not None:
                found[each.slot] = each
        return found

    def waiting(self) -> list[Progress]:
        """Those that have not begun, in order."""
        return [each for each in self.all if each.status == "waiting"]

    def entering(self, step: int) -> list[Progress]:
        """Give the slots that are free at a step to the adapters that wait, and return these."""
        entered = []
        waiting = iter(self.waiting())
        for slot, occupant in enumerate(self.occupants()):
            if occupant is None and self.free_from[slot] <= step:
                found = next(waiting, None)
                if found is None:
                    break
                found.status, found.slot = "active", slot
                entered.append(found)
        return entered

    @property
    def is_done(self) -> bool:
        """Whether every adapter is finished or failed."""
        return all(each.status in ("finished", "failed") for each in self.all)
