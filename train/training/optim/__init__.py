"""The optimizer of ``d``: its rule, the rate of each step, groups of arrays, and the average."""

from .average import averaged, averages
from .groups import factors, paths, require_patterns
from .rules import optimizer, update_rule
from .schedules import rates, require_schedule, schedule

__all__ = [
    "averaged",
    "averages",
    "factors",
    "optimizer",
    "paths",
    "rates",
    "require_patterns",
    "require_schedule",
    "schedule",
    "update_rule",
]
