"""Damaged copies of a file: bytes that are changed, lost or doubled, and JSON of other values."""

import json
import random
import re
from typing import Any

_VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 10**9, 10**30, -(10**30), 1e308, 0.5, float("nan"), float("inf"),
    "", "x", "x" * 1000, "../../etc/passwd", "\ud800", [], {}, [1], {"x": 1}, ["x"] * 100,
]  # fmt: skip
_BYTES = (b"\x00", b"\xff", b'"', b"{", b"[" * 1000, b"}", b"9" * 40, b"\\ud800", b"NaN", b"\n")
_HEADER = 8
"""Bytes of a .safetensors file that say how long its JSON header is."""


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A copy with one to three faults, most of them near the start, where headers are."""
    for _ in range(rng.randint(1, 3)):
        content = rng.choice((_flipped, _cut, _without, _doubled, _inserted))(content, rng)
    return content


def damaged_json(content: bytes, rng: random.Random) -> bytes:
    """JSON of which some values or keys are others; or damaged as any file."""
    if rng.random() < 0.3:
        return damaged(content, rng)
    tree = json.loads(content)
    for _ in range(rng.randint(1, 3)):
        tree = _changed(tree, rng)
    text = json.dumps(tree)
    if rng.random() < 0.1:  # the first key twice
        text = re.sub(r'\{("[^"]*": )', r"{\1 0, \1", text, count=1)
    return text.encode()


def damaged_safetensors(content: bytes, rng: random.Random) -> bytes:
    """A file of arrays with a damaged header, most often of the right length."""
    if rng.random() < 0.3:
        return damaged(content, rng)
    length = int.from_bytes(content[:_HEADER], "little")
    header = damaged_json(content[_HEADER : _HEADER + length], rng)
    return len(header).to_bytes(_HEADER, "little") + header + content[_HEADER + length :]


def _place(content: bytes, rng: random.Random) -> int:
    return int(len(content) * rng.random() ** 4)


def _flipped(content: bytes, rng: random.Random) -> bytes:
    result = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        if result:
            result[_place(content, rng) % len(result)] = rng.randrange(256)
    return bytes(result)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: _place(content, rng)]


def _without(content: bytes, rng: random.Random) -> bytes:
    start = _place(content, rng)
    return content[:start] + content[start + rng.randint(1, 64) :]


def _doubled(content: bytes, rng: random.Random) -> bytes:
    start = _place(content, rng)
    stop = start + rng.randint(1, 64)
    return content[:stop] + content[start:]


def _inserted(content: bytes, rng: random.Random) -> bytes:
    start = _place(content, rng)
    return content[:start] + rng.choice(_BYTES) + content[start:]


def _changed(tree: Any, rng: random.Random) -> Any:
    """A tree of JSON in which one value, or one key, is another."""
    if isinstance(tree, dict) and tree and rng.random() < 0.85:
        key = rng.choice(list(tree))
        rest = {name: value for name, value in tree.items() if name != key}
        fate = rng.random()
        if fate < 0.1:
            return rest
        name = key + "x" if fate < 0.2 else key
        return {**rest, name: _changed(tree[key], rng)}
    if isinstance(tree, list) and tree and rng.random() < 0.85:
        place = rng.randrange(len(tree))
        return [*tree[:place], _changed(tree[place], rng), *tree[place + 1 :]]
    return rng.choice(_VALUES)
