"""The runs of a study of methods: their lines in a file, and the table of them."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

FIRST_SEED = 0
"""With which the learning rate is chosen."""
GRID = tuple(float(f"{digit}e{power}") for power in range(-6, 2) for digit in (1, 3))
"""Of learning rates."""


class Result(NamedTuple):
    """One run. Losses are of response tokens, in nats a token."""

    variant: str
    task: str
    learning_rate: float
    seed: int
    validation: float
    test: float
    trained: int
    seconds_per_step: float
    device: str


def on_base(variant: str, quantize: str) -> str:
    """How results name a variant: with the kind of its base, where that is quantised."""
    return variant if quantize == "none" else f"{variant} quantize={quantize}"


def climb(loss: Callable[[float], float], start: float) -> float:
    """The value of the grid that is better than both its neighbours, found uphill from ``start``.

    Raises:
        ValueError: when the best is at an end of the grid.
    """
    best = min(range(len(GRID)), key=lambda i: abs(math.log(GRID[i] / start)))
    while True:
        if best in (0, len(GRID) - 1):
            raise ValueError(f"the best learning rate {GRID[best]} is at an end of the grid")
        found = min((best, best + 1, best - 1), key=lambda i: loss(GRID[i]))
        if found == best:
            return GRID[best]
        best = found


def keep(result: Result, output: Path) -> Result:
    """Write a line of ``output``, and one for whoever watches."""
    with output.open("a") as file:
        file.write(json.dumps(result._asdict()) + "\n")
    print(
        f"{result.task:<8} {result.variant:<20} {result.learning_rate:.0e} seed {result.seed}: "
        f"validation {result.validation:.4f} test {result.test:.4f} "
        f"{result.seconds_per_step * 1e3:.1f} ms/step",
        flush=True,
    )
    return result


def load_results(path: Path) -> list[Result]:
    """The lines of a file of results; none if there is no file."""
    if not path.is_file():
        return []
    return [Result(**json.loads(line)) for line in path.read_text().splitlines()]


def table(results: Sequence[Result], variants: Sequence[str]) -> str:
    """Markdown: for each task the best learning rate, mean and spread of the test loss, speed.

    Args:
        results: of any variants and tasks.
        variants: the names that the table has, in order; those without results are left out.
    """
    names = list(dict.fromkeys(task.task for task in results))
    head = ["method", "trained"]
    for name in names:
        head += [f"{name}: rate", "NLL", "ms a step"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for variant in variants:
        own = [result for result in results if result.variant == variant]
        if not own:
            continue
        cells = [f"`{variant}`" if variant != "base" else "base", f"{own[0].trained:,}"]
        for name in names:
            best = chosen([result for result in own if result.task == name])
            if not best:
                cells += ["", "", ""]
                continue
            tests = [result.test for result in best]
            spread = f" ± {statistics.stdev(tests):.4f}" if len(tests) > 1 else ""
            speed = statistics.median(result.seconds_per_step for result in best) * 1e3
            cells += [
                f"{best[0].learning_rate:.0e}" if best[0].learning_rate else "",
                f"{statistics.mean(tests):.4f}{spread}",
                f"{speed:.1f}" if speed else "",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chosen(results: Sequence[Result]) -> list[Result]:
    """The runs at the learning rate whose validation loss is least with the first seed."""
    swept = [result for result in results if result.seed == FIRST_SEED]
    if not swept:
        return []
    rate = min(swept, key=lambda result: result.validation).learning_rate
    return [result for result in results if result.learning_rate == rate]
