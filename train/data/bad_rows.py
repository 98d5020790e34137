"""Records that cannot be used: counted and named, then refused or left out."""

_NAMED = 3
"""Records that are named with their reason; the rest are counted."""


class BadRows:
    """Collects them over a source.

    Args:
        skip: leave them out, in place of refusing all records.
    """

    def __init__(self, skip: bool) -> None:
        self._skip = skip
        self._reasons: list[str] = []
        self._total = 0
        self.count = 0

    def seen(self, count: int) -> None:
        """So many more records were looked at."""
        self._total += count

    def add(self, reason: str) -> None:
        """One that cannot be used: its name and why."""
        self.count += 1
        if len(self._reasons) < _NAMED:
            self._reasons.append(reason)

    def require_none(self) -> None:
        """Raise ``ValueError``, which names the first, unless they are to be left out."""
        if not self.count or self._skip:
            return
        remedy = "config.data.skip_bad_rows=True leaves such records out"
        if self.count == 1:
            raise ValueError(f"{self._reasons[0]}. Correct it; {remedy}")
        more = "; ".join(self._reasons[1:])
        raise ValueError(
            f"{self._reasons[0]}. Of {self._total:,} records {self.count:,} cannot be used: next "
            f"{more}. Correct them; {remedy}"
        )

    def line(self, name: str) -> str:
        """What is left out, for the log."""
        more = "" if self.count <= _NAMED else f"; and {self.count - _NAMED:,} more"
        return (
            f"{name}: {self.count:,} of {self._total:,} records are left out "
            f"(config.data.skip_bad_rows): {'; '.join(self._reasons)}{more}"
        )
