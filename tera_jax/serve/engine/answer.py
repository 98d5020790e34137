"""An answer that is being made: what the host knows of a request between submission and end."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from tera_jax.serve.engine.adapter_source import OnDevice
from tera_jax.serve.engine_config import EngineConfig
from tera_jax.serve.requests import Finish, InvalidRequestError, Listener, Request, Token

Reason: TypeAlias = Literal["stop", "length", "cancelled", "unknown_adapter", "error"]
"""Of an end."""
_log = logging.getLogger(__name__)


class HostScores(NamedTuple):
    """:class:`tera_jax.llama.decode.slot_scores.Scores` on the host."""

    chosen_N: np.ndarray
    top_NK: np.ndarray
    ids_NK: np.ndarray

    def token(self, place: int, id_: int, most: int) -> Token:
        """A token with its scores at a place of these."""
        pairs = zip(self.ids_NK[place, :most], self.top_NK[place, :most], strict=True)
        top = tuple((int(other), float(logp)) for other, logp in pairs)
        return Token(id_, float(self.chosen_N[place]), top)


class Answer:
    """A request that was taken. It is a ticket; all else is the engine's thread's.

    Args:
        request: what is answered.
        listener: of its tokens.
        config: of the engine.
        leave: called when the request is cancelled.
        newest: the version of its adapter when it was submitted.
    """

    def __init__(
        self,
        request: Request,
        listener: Listener,
        config: EngineConfig,
        leave: Callable[["Answer"], None],
        newest: int | None = None,
    ) -> None:
        sampling, room = request.sampling, config.max_length - len(request.tokens)
        self.request = request
        self.limit = min(sampling.max_tokens, room)
        ends = () if sampling.ignore_eos else config.eos_ids
        self.stops = tuple({*sampling.stop_ids, *ends})
        self.load: Future[OnDevice] | None = None
        self.newest = newest
        self.version: int | None = None
        self.slot: int | None = None
        self.started = 0
        self.count = 0
        self.ended = False
        self._listener, self._leave = listener, leave
        self._prompt: tuple[Token, ...] | None = None

    def cancel(self) -> None:
        """End the request. Its slot is free at the next step; after its end this does nothing."""
        if not self.ended:
            self._leave(self)

    @property
    def is_loaded(self) -> bool:
        """Whether its adapter is there, or will not come."""
        return self.request.adapter is None or (self.load is not None and self.load.done())

    def echo(self, scores: HostScores, before: int = 0) -> None:
        """Keep the scores of the prompt for the end.

        Args:
            scores: of what the model read, from its second token on, in order.
            before: virtual tokens that it read before the prompt.
        """
        tokens, most = self.request.tokens, self.request.echo_logprobs or 0
        rest = (scores.token(n, id_, most) for n, id_ in enumerate(tokens[1:], before))
        self._prompt = (Token(tokens[0]), *rest)

    def add(self, id_: int, scores: HostScores | None, place: int) -> Reason | None:
        """Send a new token, unless it stops the answer.

        Args:
            id_: of the vocabulary.
            scores: of all new tokens of a step, if any request wants them.
            place: of this token in these.

        Returns:
            Why the answer is to end now; None when it goes on.
        """
        if id_ in self.stops:
            return "stop"
        most, token = self.request.sampling.logprobs, Token(id_)
        if most is not None and scores is not None:
            token = scores.token(place, id_, most)
        self.count += 1
        self._send(token)
        return "length" if self.count >= self.limit else None

    def end(self, reason: Reason, message: str | None = None) -> None:
        """Send the end, once."""
        if not self.ended:
            self.ended = True
            self._send(Finish(reason, message, self._prompt, self.version))

    def _send(self, event: Any) -> None:
        try:
            self._listener(event)
        except Exception:
            _log.exception("the listener of request %r raised; it is cancelled", self.request.id)
            self.cancel()


def require_fits(request: Request, config: EngineConfig, vocabulary: int) -> None:
    """Check that an engine can answer a request.

    Raises:
        InvalidRequestError: by the field and the remedy.
    """
    count, most = len(request.tokens), config.max_length - (request.sampling.max_tokens > 0)
    if count > most:
        raise InvalidRequestError(
            f"tokens has {count}, and max_tokens is {request.sampling.max_tokens}, but a slot "
            f"has room for {config.max_length} of both together; send at most {most}"
        )
    wrong = {
        token
        for token in (*request.tokens, *request.sampling.stop_ids)
        if not 0 <= token < vocabulary
    }
    if wrong:
        raise InvalidRequestError(
            f"tokens or stop_ids have {min(wrong)}, but the vocabulary has ids from 0 to "
            f"{vocabulary - 1}; send ids of this model's tokenizer"
        )
    if request.echo_logprobs is not None and not config.echo:
        raise InvalidRequestError(
            "echo_logprobs is not offered by this engine; leave it out, or start with echo=True"
        )
