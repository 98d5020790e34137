"""Requests that wait for a slot, first come first served, and whose adapters are being read.

A request whose adapter is still being read does not stop those behind it, and goes before them as
soon as it is there. Only the first of those that wait have their adapters read, so that a long
queue takes little memory.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import Future

from tera_jax.serve.engine.adapter_source import OnDevice
from tera_jax.serve.engine.answer import Answer
from tera_jax.serve.requests import BusyError


class Waiting:
    """A bounded queue. One thread at a time may use it.

    Args:
        most: requests.
        ahead: requests whose adapters are read.
        load: starts to read an adapter, of which a version is known. It may not raise.
    """

    def __init__(
        self, most: int, ahead: int, load: Callable[[str, int | None], Future[OnDevice]]
    ) -> None:
        self._most, self._ahead, self._load = most, ahead, load
        self._answers: dict[Answer, None] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, answer: Answer) -> None:
        """Let a request wait.

        Raises:
            BusyError: when as many wait as may.
        """
        if len(self) >= self._most:
            raise BusyError(f"{len(self)} requests wait already; send this one again later")
        self._answers[answer] = None
        self._begin()

    def remove(self, answer: Answer) -> bool:
        """Take a request out, and say whether it was there."""
        found = answer in self._answers
        self._answers.pop(answer, None)
        self._begin()
        return found

    def first(self, is_free: bool) -> Answer | None:
        """The first request that can be begun, which stays.

        Args:
            is_free: whether there is a slot. Requests for no new token need none.
        """
        for answer in itertools.islice(self._answers, self._ahead):
            if answer.is_loaded and (is_free or answer.limit == 0):
                return answer
        return None

    def take(self, is_free: bool) -> Answer | None:
        """:meth:`first`, taken out."""
        if (answer := self.first(is_free)) is not None:
            self.remove(answer)
        return answer

    def all(self) -> list[Answer]:
        """Take all out."""
        found, self._answers = [*self._answers], {}
        return found

    def _begin(self) -> None:
        for answer in itertools.islice(self._answers, self._ahead):
            if answer.request.adapter is not None and answer.load is None:
                answer.load = self._load(answer.request.adapter, answer.newest)
