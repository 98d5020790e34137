"""Turns of an engine: requests that end or begin, a step of all slots, the tokens of the last one.

The tokens of a turn are read after the next turn's step was started, so that the device never waits
for the host. A turn keeps which request had which slot: a slot may have another one by then.
"""

import logging
import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tera_jax.llama.decode.slots import NO_TOKEN
from tera_jax.serve.engine.answer import Answer, HostScores, Reason
from tera_jax.serve.engine.slot_device import Begun, Output, SlotDevice
from tera_jax.serve.engine.waiting import Waiting
from tera_jax.serve.engine_config import EngineConfig
from tera_jax.serve.requests import UnknownAdapterError

_log = logging.getLogger(__name__)


class Start(NamedTuple):
    """A request that was begun.

    Attributes:
        answer: to it.
        first: its first new token, among others; None where it is to have none.
        place: of its token there.
        prompt: the scores of its prompt, where wanted.
    """

    answer: Answer
    first: Output | None
    place: int = 0
    prompt: Any = None


class Turn(NamedTuple):
    """What the device computes for a turn: requests that begin, and a step of those in slots.

    Attributes:
        starts: the requests that begin.
        answers: those that the step gives a token, by slot.
        step: its tokens; None where nobody is to have one.
    """

    starts: list[Start]
    answers: dict[int, Answer]
    step: Output | None


class Scheduler:
    """The requests in slots. Its functions are the engine's thread's, unless they say else.

    Args:
        device: the slots.
        waiting: the requests without one.
        config: of the engine.
        changed: held while what other threads read is changed, and told when they change it.

    Attributes:
        answers: the requests in slots.
        taken: all that no longer wait and have not ended.
        counts: of :class:`tera_jax.serve.requests.Stats`.
    """

    def __init__(
        self,
        device: SlotDevice,
        waiting: Waiting,
        config: EngineConfig,
        changed: threading.Condition,
    ) -> None:
        self.answers: dict[int, Answer] = {}
        self.taken: set[Answer] = set()
        self.counts = dict.fromkeys(
            ("generated_tokens", "prompt_tokens", "failed", "cancelled", "steps"), 0
        )
        self._device, self._waiting, self._config = device, waiting, config
        self._changed = changed
        self._leaving: list[Answer] = []
        self._all_leave = False
        self._free = [*range(config.slots)]

    def leave(self, answer: Answer) -> None:
        """Let a request be cancelled in the next turn. Any thread may call it."""
        with self._changed:
            self._leaving.append(answer)
            self._changed.notify_all()

    def leave_all(self) -> None:
        """Let all requests be cancelled from the next turn on. Any thread may call it."""
        with self._changed:
            self._all_leave = True
            self._changed.notify_all()

    @property
    def has_work(self) -> bool:
        """Whether a turn would do anything."""
        if self._due() or self._leaving or (self._all_leave and self._waiting):
            return True
        return self._waiting.first(bool(self._free)) is not None

    def turn(self, last: Turn | None) -> Turn | None:
        """One turn, which is to be given to the next.

        Args:
            last: whose tokens are read now.
        """
        self._cancel()
        starts = self._begin_all()
        turn = None
        try:
            due = self._due()
            step = self._step(due) if due else None
            if starts or step is not None:
                turn = Turn(starts, due, step)
            if last is not None:
                self._read(last)
        except Exception as error:
            self._recover(error, [*(last or Turn([], {}, None)).starts, *starts])
            return None
        return turn

    def _cancel(self) -> None:
        with self._changed:
            leaving, self._leaving = self._leaving, []
            if self._all_leave:
                leaving += [*self._waiting.all(), *self.answers.values()]
            for answer in leaving:
                self._waiting.remove(answer)
        for answer in leaving:
            if answer.ended:
                continue
            if answer.slot is not None:
                self._device.evict(answer.slot)
            self._end(answer, "cancelled")

    def _begin_all(self) -> list[Start]:
        """What waits into free slots: prompts of one bucket together, the others alone."""
        starts: list[Start] = []
        groups: dict[int, list[tuple[Answer, jax.Array | None]]] = {}
        for _ in range(self._config.prefills):
            with self._changed:
                taken = sum(map(len, groups.values()))
                answer = self._waiting.take(len(self._free) > taken)
            if answer is None:
                break
            self.taken.add(answer)
            try:
                numbers = self._numbers(answer)
                if answer.request.echo_logprobs is not None:
                    starts.append(self._begin_alone(answer, numbers))
                elif answer.limit == 0:
                    starts.append(Start(answer, None))
                else:
                    length = self._device.bucket(numbers, len(answer.request.tokens))
                    groups.setdefault(length, []).append((answer, numbers))
            except Exception as error:
                self._fail([answer], error, starts)
        for length, group in groups.items():
            while group:
                size = next(n for n in self._device.counts(length) if n <= len(group))
                some, group = group[:size], group[size:]
                try:
                    starts += self._begin(some)
                except Exception as error:
                    self._fail([answer for answer, _ in some], error, starts)
        return starts

    def _fail(self, answers: Sequence[Answer], error: Exception, starts: list[Start]) -> None:
        """End what could not begin; where the slots were lost with it, what began before too."""
        is_gone = isinstance(error, UnknownAdapterError)
        for answer in answers:
            self._end(answer, "unknown_adapter" if is_gone else "error", str(error))
        if self._device.is_lost:
            self._recover(error, starts)
            starts.clear()

    def _numbers(self, answer: Answer) -> jax.Array | None:
        """Those of its adapter, which it keeps from here on."""
        loaded = None if answer.load is None else answer.load.result()
        answer.version, answer.load = loaded and loaded.version, None
        self.counts["prompt_tokens"] += len(answer.request.tokens)
        return None if loaded is None else loaded.numbers

    def _begin(self, group: Sequence[tuple[Answer, jax.Array | None]]) -> list[Start]:
        begun = [
            Begun(self._take_slot(answer), numbers, answer.request.tokens, self._settings(answer))
            for answer, numbers in group
        ]
        answers = [answer for answer, _ in group]
        wanted = any(answer.request.sampling.logprobs is not None for answer in answers)
        first = self._device.admit(begun, wanted)
        return [Start(answer, first, place) for place, answer in enumerate(answers)]

    def _begin_alone(self, answer: Answer, numbers: jax.Array | None) -> Start:
        row, begun, prompt = self._device.echo(numbers, answer.request.tokens)
        if answer.limit == 0:
            return Start(answer, None, prompt=prompt)
        wanted, slot = answer.request.sampling.logprobs is not None, self._take_slot(answer)
        first = self._device.insert(slot, row, begun, self._settings(answer), wanted)
        return Start(answer, first, prompt=prompt)

    def _take_slot(self, answer: Answer) -> int:
        with self._changed:
            slot = answer.slot = self._free.pop()
            self.answers[slot] = answer
        answer.started = 1
        return slot

    def _settings(self, answer: Answer) -> Any:
        sampling = answer.request.sampling
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        return self._device.settings(sampling, answer.limit, seed, answer.stops)

    def _due(self) -> dict[int, Answer]:
        """Those in slots that are to have more tokens than are on their way."""
        return {slot: each for slot, each in self.answers.items() if each.started < each.limit}

    def _step(self, due: Mapping[int, Answer]) -> Output:
        asked = [answer.request.sampling for answer in due.values()]
        scored = any(sampling.logprobs is not None for sampling in asked)
        sampling = any(sampling.temperature > 0 for sampling in asked)
        self.counts["steps"] += 1
        output = self._device.step(sampling, scored)
        for answer in due.values():
            answer.started += 1
        return output

    def _read(self, turn: Turn) -> None:
        """Send the tokens of a turn, whose requests may have ended meanwhile."""
        for answer, first, place, prompt in turn.starts:
            if prompt is not None:
                is_base = answer.request.adapter is None
                answer.echo(_on_host(prompt), 0 if is_base else self._device.virtual_tokens)
            if first is None:
                self._end(answer, "length")
            else:
                self._send(answer, int(np.asarray(first.token_B)[place]), first, place)
        if turn.step is None:
            return
        new = np.asarray(turn.step.token_B).tolist()
        for slot, answer in turn.answers.items():
            if new[slot] != NO_TOKEN:
                self._send(answer, new[slot], turn.step, slot)

    def _send(self, answer: Answer, token: int, output: Output, place: int) -> None:
        if answer.ended:
            return
        wanted = answer.request.sampling.logprobs is not None and output.scores is not None
        before = answer.count
        reason = answer.add(token, _on_host(output.scores) if wanted else None, place)
        self.counts["generated_tokens"] += answer.count - before
        if reason is not None:
            self._end(answer, reason)

    def _end(self, answer: Answer, reason: Reason, message: str | None = None) -> None:
        """Free the slot, and then send the end: who gets it can count on that."""
        if answer.ended:
            return
        if reason in ("error", "unknown_adapter", "cancelled"):
            self.counts["cancelled" if reason == "cancelled" else "failed"] += 1
        self._release(answer)
        self.taken.discard(answer)
        answer.end(reason, message)

    def _release(self, answer: Answer) -> None:
        with self._changed:
            if answer.slot is not None and self.answers.get(answer.slot) is answer:
                del self.answers[answer.slot]
                self._free.append(answer.slot)

    def _recover(self, error: Exception, starts: list[Start]) -> None:
        """End what was in the slots, and go on with empty ones."""
        _log.error("a step failed: %s", error)
        for answer in {*self.answers.values(), *(start.answer for start in starts)}:
            self._end(answer, "error", f"the step failed: {error}")
        self._device.reset()


def _on_host(scores: Any) -> HostScores:
    return HostScores(*map(np.asarray, scores))
