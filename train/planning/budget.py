"""What may be spent on an adapter: trainable parameters, or bytes of its exported file."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .candidates import METHOD, Layout

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_CHECKSUM = "sha256"
_NUMBER = 4
"""Bytes of a float32."""


class Budget(NamedTuple):
    """A limit that no scheme exceeds.

    Attributes:
        limit: the most.
        in_bytes: of the file ``adapter.safetensors`` in float32; else trainable parameters.
    """

    limit: int
    in_bytes: bool

    def spent(self, layout: Layout) -> int:
        """What a layout takes of it."""
        return file_bytes(layout) if self.in_bytes else layout.trained

    def __str__(self) -> str:
        return f"{self.limit:,} {'bytes' if self.in_bytes else 'trainable parameters'}"


def parse(parameters: str | None, size: str | None) -> Budget:
    """The budget of the flags ``--budget`` and ``--budget-bytes``.

    Raises:
        ValueError: for none, both, or a text that is no count or size above zero.
    """
    if (parameters is None) == (size is None):
        found = "are both given" if size is not None else "are both missing"
        raise ValueError(
            f"--budget and --budget-bytes {found}; give one, such as --budget=40000 or "
            "--budget-bytes=80KB"
        )
    if parameters is not None:
        text = parameters.replace(",", "").replace("_", "")
        limit = int(text) if text.isdecimal() else 0
        if limit < 1:
            raise ValueError(
                f"--budget={parameters} is no count of trainable parameters; give one such as 40000"
            )
        return Budget(limit, False)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", size or "")
    unit = _UNITS.get(match[2].upper()) if match else None
    limit = int(float(match[1]) * unit) if match and unit else 0
    if limit < 1:
        raise ValueError(
            f"--budget-bytes={size} is no size; give bytes, or a number with KB, MB, KiB or MiB, "
            "such as 80KB"
        )
    return Budget(limit, True)


def within(layouts: Sequence[Layout], budget: Budget) -> list[Layout]:
    """The layouts that a budget is enough for.

    Raises:
        ValueError: when it is enough for none; the error has the cheapest one.
    """
    spent = [budget.spent(each) for each in layouts]
    found = [each for each, cost in zip(layouts, spent, strict=True) if cost <= budget.limit]
    if not found:
        least = min(range(len(layouts)), key=spent.__getitem__)
        flag = "--budget-bytes" if budget.in_bytes else "--budget"
        cheapest = budget._replace(limit=spent[least])
        raise ValueError(
            f"{flag}={budget.limit} is below the smallest scheme: {layouts[least].label} on "
            f"{'+'.join(layouts[least].targets)} takes {cheapest}; give {flag}={spent[least]} "
            "or more"
        )
    return found


def file_bytes(layout: Layout) -> int:
    """The size of ``adapter.safetensors`` as ``train.export --format=adapter`` writes it.

    The header of the format is counted too; ``adapter.json`` beside the file is not.
    """
    shapes = {
        "/".join((*layer.path, METHOD, str(i))): (*layer.stack, rank)
        for layer, scheme in zip(layout.layers, layout.schemes, strict=True)
        for i, rank in enumerate(scheme.ranks)
    }
    return safetensors_bytes(shapes)


def safetensors_bytes(shapes: Mapping[str, Sequence[int]]) -> int:
    """The size of a safetensors file of float32 arrays with a checksum.

    It has eight bytes, a header of JSON that spaces fill up to a multiple of eight, and the arrays
    in the order of their names.
    """
    header: dict[str, object] = {"__metadata__": {_CHECKSUM: 64 * "0"}}
    end = 0
    for name, shape in sorted(shapes.items()):
        start, end = end, end + _NUMBER * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": [*shape], "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":")).encode())
    return 8 + -(-length // 8) * 8 + end
