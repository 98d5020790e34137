"""Names of adapters: keys of a store and of requests, never paths."""

import re

LONGEST = 200
"""Characters."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9][A-Za-z0-9._:-]*)*")


def require(name: object) -> str:
    """The name, if it is one.

    Raises:
        ValueError: for anything else, such as ``../x``.
    """
    if not isinstance(name, str) or len(name) > LONGEST or not _NAME.fullmatch(name):
        shown = repr(name)[:LONGEST]
        raise ValueError(
            f"{shown} is no name of an adapter; use at most {LONGEST} letters, digits and . _ : - "
            "in parts that begin with a letter or a digit, with / between them"
        )
    return name
