"""Has a step become slower? Ratios to the frozen base, beside those that a card is known for.

``expected.json`` has an entry for each card, jax version and setting that were measured. Only
ratios are compared: milliseconds change with a card's clock, power and host.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks.cases import FROZEN
from benchmarks.steps import Measurement
from tera_jax import atomic, json_files
from tera_jax.json_files import Key
from tera_jax.ops import dispatch

FILE = Path(__file__).with_name("expected.json")
CASES = (FROZEN, "lora", "tera", "tera:fast", "tera:structured")
LAYERS = 8
TOLERANCE = 0.03
"""Of new entries. Four runs of dense TeRA on four layers are up to 0.009 from their middle."""
_REMEDY = f"write it as {FILE.name} of the repository has it"


class Setting(NamedTuple):
    """What ratios depend on, beside the card and jax."""

    model: str
    layers: int
    rows: int
    length: int
    remat: str
    mesh: str


class Entry(NamedTuple):
    """The ratios of one card, by the names of the table's rows.

    A row is slower when its ratio is above the expected one by more than ``tolerance`` of it.
    ``command`` is what was run.
    """

    device: str
    jax: str
    setting: dict[str, Any]
    command: str
    tolerance: float
    to_frozen: dict[str, float]


class Verdict(NamedTuple):
    """Lines to print, and the names of the rows that are slower."""

    lines: list[str]
    slower: list[str]


_ENTRY = {
    "device": Key(str),
    "jax": Key(str),
    "setting": Key(dict),
    "command": Key(str),
    "tolerance": Key(float, above=0, below=1),
    "to_frozen": Key(dict[str, float], above=0),
}
_SETTING = {
    "model": Key(str),
    "layers": Key(int, least=1),
    "rows": Key(int, least=1),
    "length": Key(int, least=1),
    "remat": Key(str),
    "mesh": Key(str),
}


def load(file: Path) -> list[Entry]:
    """The entries of a file.

    Raises:
        ValueError: for a file that is not as :data:`FILE` is.
    """
    content = json_files.typed(
        file, json_files.read(file, remedy=_REMEDY), {"entries": Key(list[dict])}, remedy=_REMEDY
    )
    entries = []
    for place, each in enumerate(content["entries"]):
        within = f"entries[{place}]."
        entry = Entry(**json_files.typed(file, each, _ENTRY, within=within, remedy=_REMEDY))
        inner = f"{within}setting."
        json_files.typed(file, entry.setting, _SETTING, within=inner, remedy=_REMEDY)
        entries.append(entry)
    return entries


def to_frozen(found: Sequence[Measurement]) -> list[float]:
    """Each row's time over that of the frozen base with as many tokens; NaN where none was run."""
    frozen = [row for row in reversed(found) if row.name.startswith(FROZEN)]
    base = {(row.tokens, row.base): row.step_seconds for row in frozen}
    return [row.step_seconds / base.get((row.tokens, row.base), math.nan) for row in found]


def measured(found: Sequence[Measurement], setting: Setting, command: str) -> Entry:
    """The entry of this machine; rows without a time are left out."""
    ratios = zip(found, to_frozen(found), strict=True)
    return Entry(
        device=dispatch.device_kind(),
        jax=jax.__version__,
        setting=setting._asdict(),
        command=command,
        tolerance=TOLERANCE,
        to_frozen={
            row.name: round(ratio, 3)
            for row, ratio in ratios
            if not row.name.startswith(FROZEN) and math.isfinite(ratio)
        },
    )


def compare(entries: Sequence[Entry], now: Entry, found: Sequence[Measurement]) -> Verdict:
    """What has become slower than its entry says.

    A row that was expected, was run and has no time, such as for want of memory, counts as slower.
    """
    expected = next((entry for entry in entries if _is_of(entry, now)), None)
    if expected is None:
        line = (
            f"no expected ratios for {now.device} with jax {now.jax} and this setting; "
            f"--record adds: {json.dumps(now._asdict())}"
        )
        return Verdict([line], [])
    lines, slower = [], []
    for row in found:
        if row.name.startswith(FROZEN):
            continue
        known, ratio = expected.to_frozen.get(row.name), now.to_frozen.get(row.name)
        if known is None:
            lines.append(f"{row.name}: {ratio}, and no ratio is expected; --record adds it")
        elif ratio is None:
            slower.append(row.name)
            lines.append(f"{row.name}: no time ({row.note or 'not finite'}), {known} expected")
        else:
            change = ratio / known - 1
            word = _word(change, expected.tolerance)
            if word == "SLOWER":
                slower.append(row.name)
            lines.append(
                f"{row.name}: {ratio} times the frozen base, {known} expected: {change:+.1%}, "
                f"{word} (tolerance {expected.tolerance:.1%})"
            )
    return Verdict(lines, slower)


def record(file: Path, now: Entry) -> None:
    """Put an entry into a file, in place of that of the same card, jax and setting.

    Ratios of rows that were not run now stay, and so does the tolerance.
    """
    entries = load(file) if file.exists() else []
    for place, entry in enumerate(entries):
        if _is_of(entry, now):
            ratios = {**entry.to_frozen, **now.to_frozen}
            entries[place] = now._replace(tolerance=entry.tolerance, to_frozen=ratios)
            break
    else:
        entries.append(now)
    atomic.write_json(file, {"entries": [entry._asdict() for entry in entries]})


def refusals(args: Any) -> Iterator[str]:
    """What of the command line goes with no comparison."""
    for name in ("sweep", "records", "anchors"):
        if getattr(args, name) is not None:
            yield f"--check and --record take no --{name}"
    if len(args.mesh) > 1:
        yield f"--check and --record take one --mesh, not {' '.join(args.mesh)}"
    if args.quantize != ["none"]:
        yield f"--check and --record take no --quantize {' '.join(args.quantize)}"


def _is_of(entry: Entry, now: Entry) -> bool:
    same = entry.device == now.device and entry.jax == now.jax
    return same and entry.setting == now.setting


def _word(change: float, tolerance: float) -> str:
    if change > tolerance:
        return "SLOWER"
    return "faster: --record it" if change < -tolerance else "as expected"


def prepare(args: Any) -> list[Entry]:
    """The expected ratios, with the defaults of ``--check`` put into ``args``."""
    if problem := next(refusals(args), None):
        raise ValueError(problem)
    if args.cases is None:
        args.cases, args.layers = list(CASES), args.layers or LAYERS
    if FROZEN not in args.cases:
        args.cases = [FROZEN, *args.cases]
    return load(args.expected) if args.expected.exists() else []
