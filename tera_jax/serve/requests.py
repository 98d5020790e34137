"""What a server and an engine say to each other: requests, tokens and errors. Imports no JAX.

A server submits a :class:`Request` with a listener. The engine calls the listener with each
:class:`Token`, and once at the end with a :class:`Finish`::

    ticket = engine.submit(Request((1, 5, 9), "ana", Sampling(max_tokens=64)), print)
    ticket.cancel()
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from tera_jax.serve.store import UnknownAdapterError as UnknownAdapterError
from tera_jax.serve.store import names

MAX_LOGPROBS = 20
"""The most top logprobs of a token."""
MAX_STOP_IDS = 8
"""The most tokens of a request that end its answer, beside those of the model."""
_SEEDS = 2**63


class BusyError(RuntimeError):
    """The engine's queue is full. The request was not taken; send it again later."""


class InvalidRequestError(ValueError):
    """A request that this engine cannot answer. The message names the field and the remedy."""


class ClosedError(RuntimeError):
    """The engine shuts down, or has shut down. It takes no more requests."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a request's new tokens are chosen.

    Attributes:
        max_tokens: the most new tokens. With 0 there is none, and the prompt alone is read.
        temperature: divides the logits that are sampled. 0 takes the most likely token, and so does
            anything below 1e-5.
        top_p: the least probability that the most likely tokens together have; 1 for all.
        top_k: sample from so many of the most likely tokens; 0 for all.
        seed: of the draws: the same seed and request give the same tokens. None is a new one.
        stop_ids: tokens that end the answer, beside those of the model.
        logprobs: how many top logprobs come with each new token. 0 gives the chosen token's alone,
            None gives none. They are of the model's logits, before temperature and filters.
        ignore_eos: whether the model's own end tokens do not end the answer.

    Raises:
        ValueError: for a value outside of its limits, by the field's name.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _require_int("max_tokens", self.max_tokens, 0, 2**31 - 1)
        _require_float("temperature", self.temperature, 0.0, 100.0)
        _require_float("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0:
            raise ValueError("top_p is 0; give a number above 0, at most 1")
        _require_int("top_k", self.top_k, 0, 2**31 - 1)
        if self.seed is not None:
            _require_int("seed", self.seed, -_SEEDS, _SEEDS - 1)
        if not isinstance(self.stop_ids, tuple) or len(self.stop_ids) > MAX_STOP_IDS:
            raise ValueError(f"stop_ids is {self.stop_ids!r:.80}; give at most {MAX_STOP_IDS} ids")
        for token in self.stop_ids:
            _require_int("stop_ids", token, 0, 2**31 - 1)
        if self.logprobs is not None:
            _require_int("logprobs", self.logprobs, 0, MAX_LOGPROBS)


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt and how it is answered.

    Attributes:
        tokens: the prompt, one token at least.
        adapter: its name; None is the base.
        sampling: of the answer.
        echo_logprobs: as ``Sampling.logprobs``, for the tokens of the prompt; they come with the
            end. None gives none.
        id: for messages and logs; the engine does not compare it.

    Raises:
        ValueError: for a value outside of its limits, by the field's name.
    """

    tokens: tuple[int, ...]
    adapter: str | None
    sampling: Sampling
    echo_logprobs: int | None = None
    id: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, tuple) or not self.tokens:
            raise ValueError("tokens is no tuple of ids; give a prompt of one token at least")
        if any(type(token) is not int for token in self.tokens):
            raise ValueError("tokens has an entry that is no integer; give ids of the vocabulary")
        if self.adapter is not None:
            names.require(self.adapter)
        if self.echo_logprobs is not None:
            _require_int("echo_logprobs", self.echo_logprobs, 0, MAX_LOGPROBS)


class Token(NamedTuple):
    """A token of an answer or, with echo, of a prompt.

    Attributes:
        id: of the vocabulary. The token that stops an answer is not sent.
        logprob: natural logarithm of its probability. None where the request wants none, and for
            the first token of a prompt.
        top: the most likely tokens at its place, as (id, logprob), the most likely first.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Finish(NamedTuple):
    """The end of an answer.

    Attributes:
        reason: ``stop`` after a token that ends it, ``length`` at ``max_tokens`` or a full slot,
            ``unknown_adapter`` where it was taken out while the request waited.
        message: what went wrong, for ``error`` and ``unknown_adapter``.
        prompt_logprobs: the tokens of the prompt, each a :class:`Token`, for ``echo_logprobs``.
        adapter_version: of the adapter that answered; None for the base and for an adapter that is
            in no store.
    """

    reason: Literal["stop", "length", "cancelled", "unknown_adapter", "error"]
    message: str | None = None
    prompt_logprobs: tuple[Token, ...] | None = None
    adapter_version: int | None = None


Listener = Callable[[Token | Finish], None]
"""Called from the engine's thread, and so it should return at once. It must not raise."""


class Stats(NamedTuple):
    """Counts of an engine since its start, and what it holds now.

    Attributes:
        slots: requests that are answered at once, at most.
        active: requests in a slot.
        waiting: requests without one.
        generated_tokens: new tokens of all answers.
        prompt_tokens: tokens of all prompts that were read.
        requests: that were taken.
        failed: of these, that ended with ``error``.
        cancelled: of these, that were cancelled.
        store_hits: requests whose adapter was in host or device memory.
        store_misses: requests whose adapter was read from the store.
        host_bytes: of the adapters in host memory.
        steps: of all slots together.
    """

    slots: int
    active: int
    waiting: int
    generated_tokens: int
    prompt_tokens: int
    requests: int
    failed: int
    cancelled: int
    store_hits: int
    store_misses: int
    host_bytes: int
    steps: int


@runtime_checkable
class Ticket(Protocol):
    """A request that an engine has taken."""

    def cancel(self) -> None:
        """End the request. Its slot is free at the next step; after its end this does nothing."""


@runtime_checkable
class Engine(Protocol):
    """Answers requests. All functions may be called from any thread."""

    @property
    def max_length(self) -> int:
        """Tokens of a slot: those of a prompt and its answer together."""

    @property
    def slots(self) -> int:
        """Requests that are answered at once."""

    @property
    def vocabulary(self) -> int:
        """Tokens of the model: ids are below it."""

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests: after :meth:`close`, or when it has stopped."""

    def submit(self, request: Request, listener: Listener) -> Ticket:
        """Take a request, and return at once.

        Args:
            request: with a prompt of fewer than ``max_length`` tokens, or as many where
                ``max_tokens`` is 0, all below ``vocabulary``. The answer ends with the slot's room.
            listener: called with each token, and with exactly one :class:`Finish` at the end.

        Raises:
            UnknownAdapterError: when there is no adapter of this name.
            InvalidRequestError: for a prompt that is too long, or a token that is none.
            BusyError: when the queue is full.
            ClosedError: after :meth:`close`.
        """

    def adapters(self, after: str = "", most: int = 100) -> list[str]:
        """Names in their order, behind ``after``: a page of at most ``most``."""

    def has_adapter(self, name: str) -> bool:
        """Whether there is an adapter of this name."""

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Take no more requests, end those that are there, and stop.

        Args:
            drain: whether the requests that were taken are answered; else they are cancelled.
            timeout: seconds after which those that are left are cancelled; None waits.
        """

    def stats(self) -> Stats:
        """Counts of now."""


def _require_int(field: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{field} is {value!r:.80}; give an integer from {least} to {most}")


def _require_float(field: str, value: Any, least: float, most: float) -> None:
    is_number = isinstance(value, float) or type(value) is int
    if not is_number or not least <= value <= most:  # NaN is neither
        raise ValueError(f"{field} is {value!r:.80}; give a number from {least:g} to {most:g}")
