"""Rounds of traffic to the base and to adapters, and single requests to cold and warm ones."""

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.served import adapters
from benchmarks.served.clients import Job, Timing
from benchmarks.store import forget

Send = Callable[[Sequence[Job], int], tuple[list[Timing], float]]
"""Sends jobs, so many at a time; gives their timings, and the seconds of all."""
Log = Callable[[str], None]
_COLUMNS = "| {} | requests | tokens/s | range | first token, ms | 99 % within | whole, ms |"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is sent.

    Attributes:
        adapters: of which each request draws one, uniformly.
        vocabulary: tokens of the model.
        requests: of each kind of traffic, in all rounds together.
        rounds: of both kinds.
        concurrency: requests at a time.
        prompt: tokens.
        answer: tokens.
        reads: single requests of each kind.
    """

    adapters: int
    vocabulary: int
    requests: int
    rounds: int
    concurrency: int
    prompt: int
    answer: int
    reads: int

    def jobs(self, count: int, seed: int) -> list[Job]:
        """Requests to adapters."""
        draw = np.random.default_rng(seed)
        return [
            Job(
                tuple(draw.integers(1, self.vocabulary, self.prompt).tolist()),
                adapters.name(int(draw.integers(self.adapters))),
                self.answer,
            )
            for _ in range(count)
        ]


def rounds(send: Send, plan: Plan, log: Log) -> dict[str, Any]:
    """Both kinds of traffic in turn; the round before the first is not counted."""
    found: dict[str, list[Timing]] = {"base": [], "adapters": []}
    rates: dict[str, list[float]] = {"base": [], "adapters": []}
    for number in range(plan.rounds + 1):
        count = -(-plan.requests // plan.rounds) if number else plan.concurrency
        jobs = plan.jobs(count, number)
        for kind in ("base", "adapters") if number % 2 else ("adapters", "base"):
            given = [job._replace(adapter=None) for job in jobs] if kind == "base" else jobs
            timings, seconds = send(given, plan.concurrency)
            rate = sum(timing.tokens for timing in timings) / seconds
            first = 1e3 * statistics.median(timing.first for timing in timings)
            where = f"round {number}" if number else "before the rounds"
            log(f"{where}, {kind}: {rate:,.1f} tokens/s, first token {first:.1f} ms")
            if number:
                found[kind] += timings
                rates[kind].append(rate)
    each = [b / a for a, b in zip(rates["base"], rates["adapters"], strict=True)]
    kinds = {kind: _of_kind(found[kind], rates[kind]) for kind in found}
    late, middle = (
        kinds["adapters"][key] / kinds["base"][key] for key in ("first_p99_ms", "first_p50_ms")
    )
    ratio = {"tokens_per_s": statistics.median(each), "of_rounds": each}
    return {**kinds, "ratio": {**ratio, "first_p99": late, "first_p50": middle}}


def _of_kind(timings: Sequence[Timing], rates: Sequence[float]) -> dict[str, Any]:
    first = [1e3 * timing.first for timing in timings]
    return {
        "requests": len(timings),
        "tokens_per_s": statistics.median(rates),
        "of_rounds": list(rates),
        "first_p50_ms": float(np.percentile(first, 50)),
        "first_p99_ms": float(np.percentile(first, 99)),
        "whole_p50_ms": 1e3 * statistics.median(timing.whole for timing in timings),
    }


def rounds_table(found: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a table."""
    yield _COLUMNS.format("traffic")
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for kind in ("base", "adapters"):
        row = found[kind]
        cells = (
            kind,
            f"{row['requests']:,}",
            f"{row['tokens_per_s']:,.1f}",
            f"{min(row['of_rounds']):,.1f} to {max(row['of_rounds']):,.1f}",
            f"{row['first_p50_ms']:.2f}",
            f"{row['first_p99_ms']:.2f}",
            f"{row['whole_p50_ms']:.1f}",
        )
        yield "| " + " | ".join(cells) + " |"
    ratio = found["ratio"]
    yield (
        f"adapters to base: {ratio['tokens_per_s']:.3f} of the tokens "
        f"({min(ratio['of_rounds']):.3f} to {max(ratio['of_rounds']):.3f}), "
        f"{ratio['first_p99']:.3f} times the 99 % of the first"
    )


def reads(send: Send, plan: Plan, store: Path) -> dict[str, Any]:
    """Single requests for one token: to the base, to an adapter never read before, and to it again.

    The first read is cold: the server has not read the adapter since its start, and the system was
    told to drop the pages of all records.
    """
    found: dict[str, list[float]] = {"base": [], "cold": [], "warm": []}
    fresh = np.random.default_rng(2).permutation(plan.adapters)[: plan.reads]
    for job, number in zip(plan.jobs(plan.reads, 2**31), fresh, strict=False):
        of_base = job._replace(answer=1, adapter=None)
        found["base"].append(_first(send, of_base))
        forget(store)
        of_adapter = of_base._replace(adapter=adapters.name(int(number)))
        for kind in ("cold", "warm"):
            found[kind].append(_first(send, of_adapter))
    result = {}
    for kind, milliseconds in found.items():
        added = [a - b for a, b in zip(milliseconds, found["base"], strict=True)]
        result[kind] = {
            "requests": len(milliseconds),
            "first_ms": statistics.median(milliseconds),
            "added_ms": statistics.median(added),
            "added_p90_ms": float(np.percentile(added, 90)),
        }
    return result


def _first(send: Send, job: Job) -> float:
    (timing,), _ = send([job], 1)
    return 1e3 * timing.first


def reads_table(found: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a table."""
    yield "| one request | first token, ms | added to the base, ms | 90 % within |"
    yield "| --- | ---: | ---: | ---: |"
    for kind, row in found.items():
        cells = (kind, *(f"{row[key]:.3f}" for key in ("first_ms", "added_ms", "added_p90_ms")))
        yield "| " + " | ".join(cells) + " |"
