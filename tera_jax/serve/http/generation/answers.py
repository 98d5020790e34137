"""Answers of an engine as pieces of text, with the logprobs that belong to each."""

import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from tera_jax.llama.pieces import StopTexts
from tera_jax.serve.http.codec import Codec
from tera_jax.serve.http.errors import ApiError, closing, of_engine
from tera_jax.serve.http.service import Service
from tera_jax.serve.requests import Finish, Request, Ticket, Token, UnknownAdapterError


class Choice(NamedTuple):
    """One answer that is wanted.

    Attributes:
        request: to the engine.
        stop: texts that end it.
        after: token ids whose text the answer's goes on with.
        echo: the prompt's text, which stands before the answer; None for none.
    """

    request: Request
    stop: tuple[str, ...] = ()
    after: tuple[int, ...] = ()
    echo: str | None = None


class Placed(NamedTuple):
    """A token, and where its text begins: a number of characters."""

    token: Token
    offset: int


@dataclasses.dataclass(frozen=True, slots=True)
class Update:
    """What is new of an answer.

    Attributes:
        index: of the choice.
        text: that follows what came before.
        tokens: of this text, where the request wants logprobs.
        count: of new tokens up to here.
        reason: why the answer ended; None while it goes on.
    """

    index: int
    text: str
    tokens: tuple[Placed, ...]
    count: int
    reason: str | None = None


class Writer:
    """The text of one answer, token by token.

    Args:
        codec: of the model.
        stop: texts that end it.
        after: as in :class:`Choice`.
        start: characters before the first.
        with_tokens: whether tokens are given out with their text.

    Attributes:
        count: of tokens.
        stopped: whether a stop text has come.
    """

    def __init__(
        self,
        codec: Codec,
        stop: Sequence[str] = (),
        after: Sequence[int] = (),
        start: int = 0,
        with_tokens: bool = False,
    ) -> None:
        self._text, self._stop = codec.detokenizer(after), StopTexts(stop)
        self._made = self._given = start
        self._with_tokens = with_tokens
        self._waiting: list[Placed] = []
        self.count = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop text has come."""
        return self._stop.found

    def push(self, token: Token) -> tuple[str, tuple[Placed, ...]]:
        """What is certain with one more token."""
        self.count += 1
        if self._with_tokens:
            self._waiting.append(Placed(token, self._made))
        piece = self._text.push(token.id)
        self._made += len(piece)
        return self._out(self._stop.push(piece), is_end=False)

    def rest(self) -> tuple[str, tuple[Placed, ...]]:
        """What is left when the answer has ended."""
        if self.stopped:
            return "", ()
        ready = self._stop.push(self._text.rest())
        return self._out(ready if self.stopped else ready + self._stop.rest(), is_end=True)

    def _out(self, ready: str, is_end: bool) -> tuple[str, tuple[Placed, ...]]:
        self._given += len(ready)
        if not self._waiting:
            return ready, ()
        everything = is_end and not self.stopped
        count = sum(everything or placed.offset < self._given for placed in self._waiting)
        out, self._waiting = tuple(self._waiting[:count]), self._waiting[count:]
        return ready, out


class Answers:
    """The answers to one HTTP request, all of them taken by the engine or none.

    Raises:
        ApiError: for what the engine does not take.
    """

    def __init__(self, service: Service, choices: Sequence[Choice]) -> None:
        self._choices = choices
        self._tickets: list[Ticket] = []
        self._inbox = service.mailbox.inbox()
        self._writers = [_writer(service.codec, choice) for choice in choices]
        self._held: dict[int, list[tuple[str, tuple[Placed, ...]]]] = {}
        self._codec = service.codec
        if service.closing.is_set():
            raise closing()
        try:
            for index, choice in enumerate(choices):
                listener = self._inbox.listener(index)
                self._tickets.append(service.engine.submit(choice.request, listener))
        except Exception as error:
            self.cancel()
            raise of_engine(error) from error

    def cancel(self) -> None:
        """Free the slots. Where an answer has ended this does nothing."""
        for ticket in self._tickets:
            ticket.cancel()

    async def joined(self) -> list[Update]:
        """Each answer as one update, by its index, when all have ended.

        Raises:
            ApiError: as :meth:`updates`.
        """
        found: dict[int, list[Update]] = {}
        async for update in self.updates():
            found.setdefault(update.index, []).append(update)
        return [_one(found[index]) for index in sorted(found)]

    async def updates(self) -> AsyncIterator[Update]:
        """What comes, until all answers have ended.

        Raises:
            ApiError: 500 or 503 when the engine could not end one.
        """
        for index, choice in enumerate(self._choices):
            if choice.echo and choice.request.echo_logprobs is None:
                yield Update(index, choice.echo, (), 0)
        open_ = {*range(len(self._choices))}
        while open_:
            for index, event in await self._inbox.take():
                if index not in open_:
                    continue
                update: Update | None
                if isinstance(event, Finish):
                    update = self._end(index, event)
                else:
                    update = self._token(index, event)
                if update is not None:
                    if update.reason is not None:
                        open_.remove(index)
                    yield update

    def _token(self, index: int, token: Token) -> Update | None:
        writer, choice = self._writers[index], self._choices[index]
        if writer.stopped:
            return None
        text, tokens = writer.push(token)
        if choice.request.echo_logprobs is not None:
            # The logprobs of the prompt, which stand first, come with the end of the answer.
            self._held.setdefault(index, []).append((text, tokens))
            return None
        reason = "stop" if writer.stopped else None
        if writer.stopped:
            self._tickets[index].cancel()
        if reason is None and not text and not tokens:
            return None
        return Update(index, text, tokens, writer.count, reason)

    def _end(self, index: int, finish: Finish) -> Update:
        writer = self._writers[index]
        reason = "stop" if writer.stopped else finish.reason
        if reason == "error":
            raise ApiError(500, finish.message or "the engine could not answer", code="engine")
        if reason == "unknown_adapter":
            raise of_engine(UnknownAdapterError(finish.message))
        if reason == "cancelled":
            raise closing()
        pieces = [*self._held.pop(index, ()), writer.rest()]
        if self._choices[index].request.echo_logprobs is not None:
            pieces.insert(0, self._prompt(index, finish))
        text = "".join(text for text, _ in pieces)
        tokens = tuple(placed for _, tokens in pieces for placed in tokens)
        return Update(index, text, tokens, writer.count, reason)

    def _prompt(self, index: int, finish: Finish) -> tuple[str, tuple[Placed, ...]]:
        """The prompt with its logprobs, whose text is that of the request."""
        writer = Writer(self._codec, with_tokens=True)
        placed: list[Placed] = []
        for token in finish.prompt_logprobs or ():
            placed += writer.push(token)[1]
        return self._choices[index].echo or "", (*placed, *writer.rest()[1])


def _writer(codec: Codec, choice: Choice) -> Writer:
    start = len(choice.echo or "")
    with_tokens = choice.request.sampling.logprobs is not None
    return Writer(codec, choice.stop, choice.after, start, with_tokens)


def _one(updates: Sequence[Update]) -> Update:
    """The updates of an answer as one."""
    text = "".join(update.text for update in updates)
    tokens = tuple(token for update in updates for token in update.tokens)
    return dataclasses.replace(updates[-1], text=text, tokens=tokens)
