"""Who sends requests: to an engine in this process, or to a server by HTTP."""

import contextlib
import http.client
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from tera_jax.serve.requests import Engine, Finish, Request, Sampling, Token


class Job(NamedTuple):
    """A prompt, the adapter's name (None is the base), and how many new tokens it gets."""

    prompt: tuple[int, ...]
    adapter: str | None
    answer: int


class Timing(NamedTuple):
    """Seconds to the first token and to the end, and new tokens."""

    first: float
    whole: float
    tokens: int


Ask = Callable[[Job], Timing]


def of_engine(engine: Engine) -> Ask:
    """Requests to an engine in this process."""

    def ask(job: Job) -> Timing:
        events: queue.SimpleQueue[tuple[float, Token | Finish]] = queue.SimpleQueue()
        sampling = Sampling(job.answer, ignore_eos=True)
        start, first, count = time.perf_counter(), 0.0, 0
        engine.submit(
            Request(job.prompt, job.adapter, sampling),
            lambda event: events.put((time.perf_counter(), event)),
        )
        while True:
            at, event = events.get()
            if isinstance(event, Finish):
                if event.reason != "length":
                    raise ValueError(f"{job.adapter} ended with {event.reason}: {event.message}")
                return Timing(first, at - start, count)
            first, count = first or at - start, count + 1

    return ask


def of_server(url: str, base_name: str) -> Ask:
    """Requests to an OpenAI server, each by a connection of its own.

    Args:
        url: such as ``http://localhost:8000``.
        base_name: the base's ``model``.
    """
    place = urlsplit(url)

    def ask(job: Job) -> Timing:
        body = {
            "model": job.adapter or base_name,
            "prompt": [*job.prompt],
            "max_tokens": job.answer,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        start, first = time.perf_counter(), 0.0
        host = (place.hostname or "localhost", place.port)
        with contextlib.closing(http.client.HTTPConnection(*host)) as connection:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            with connection.getresponse() as answer:
                if answer.status != 200:
                    raise ValueError(f"{url} says {answer.status}: {answer.read(500)!r}")
                while (line := answer.readline().strip()) != b"data: [DONE]":
                    if line.startswith(b"data:"):
                        first = first or time.perf_counter() - start
                    elif not line and answer.isclosed():
                        raise ValueError(f"{url} ended a stream before its end")
        return Timing(first, time.perf_counter() - start, job.answer)

    return ask


def at_once(ask: Ask, jobs: Sequence[Job], concurrency: int) -> tuple[list[Timing], float]:
    """All jobs, so many at a time, and the seconds that they took together.

    Raises:
        ValueError: what the first request that failed says.
    """
    found: list[Timing] = []
    failures: list[Exception] = []
    todo: Iterator[Job] = iter(jobs)
    lock = threading.Lock()

    def work() -> None:
        while not failures:
            with lock:
                job = next(todo, None)
            if job is None:
                return
            try:
                found.append(ask(job))
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(concurrency)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return found, time.perf_counter() - start
