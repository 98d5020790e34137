"""The table of faults."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.faults import descriptions, faults, outside
from tests.faults.scene import Scene


class Fault(NamedTuple):
    """One kind.

    Attributes:
        strike: disturbs a run in a directory.
        times: how often, unless told otherwise.
        exact: whether the run must end with equal bits, or to rounding.
    """

    strike: Callable[[Scene, Path, random.Random], None]
    times: int = 5
    exact: bool = True


FAULTS = {
    "SIGTERM": Fault(faults.sigterm),
    "SIGINT": Fault(faults.sigint),
    "kill -9": Fault(faults.killed),
    "hours are over": Fault(faults.hours_are_over),
    "end while a checkpoint is written": Fault(faults.crash_in_a_checkpoint),
    "damaged checkpoint": Fault(faults.damaged_checkpoint),
    "damaged shard of the base": Fault(faults.damaged_shard),
    "damaged adapter": Fault(faults.damaged_adapter),
    "disk full": Fault(faults.disk_full),
    "loss that is no number": Fault(faults.not_finite),
    "another mesh": Fault(faults.another_mesh, exact=False),
    "disk full at the start": Fault(outside.disk_full_at_the_start, times=10),
    "no room for a file": Fault(outside.no_room_for_a_file, times=10),
    "two runs at once": Fault(outside.two_runs_at_once, times=10),
    "killed export": Fault(outside.killed_export, times=10),
    "torn line of the log": Fault(outside.torn_line, times=10),
    "changed data": Fault(outside.changed_data, times=10),
    "base changed below bfloat16": Fault(outside.changed_base, times=10),
    "changed adapter.json": Fault(descriptions.changed_description, times=10),
}
