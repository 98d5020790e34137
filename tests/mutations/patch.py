"""One wrong line, and the quick test that is to catch it."""

from typing import NamedTuple


class Patch(NamedTuple):
    """``old`` stands in ``file`` exactly once, and gives way to ``new``."""

    kind: str
    what: str
    file: str
    old: str
    new: str
    test: str
