"""An engine whose tokens are known, and a server of it in a thread."""

import contextlib
import hashlib
import queue
import threading
import time

from tera_jax.serve.http.codec import Codec
from tera_jax.serve.http.server import Server, listen
from tera_jax.serve.http.service import Service
from tera_jax.serve.requests import (
    BusyError,
    ClosedError,
    Finish,
    InvalidRequestError,
    Stats,
    Token,
    UnknownAdapterError,
)


def answer(request, vocabulary):
    """The new tokens of a request: they follow from the prompt and from the adapter."""
    seed = repr((request.tokens, request.adapter, request.sampling.seed)).encode()
    found = []
    for step in range(request.sampling.max_tokens):
        digest = hashlib.sha256(seed + step.to_bytes(4)).digest()
        found.append(int.from_bytes(digest[:4]) % (vocabulary - 3) + 3)
    return found


def scored(id_, logprobs, vocabulary):
    """A token with logprobs that follow from its id."""
    if logprobs is None:
        return Token(id_)
    top = tuple(((id_ + each) % vocabulary, -0.5 - each) for each in range(logprobs))
    return Token(id_, -0.5, top)


class FakeTicket:
    def __init__(self):
        self.cancelled = threading.Event()

    def cancel(self):
        self.cancelled.set()


class FakeEngine:
    """Answers ``slots`` requests at once, a token of each at a time."""

    def __init__(self, vocabulary, names=("ana", "ben"), slots=4, waiting=100, pause=0.0):
        self.vocabulary, self.slots, self.max_length = vocabulary, slots, 128
        self.names, self.pause = [*names], pause
        self.waiting, self._most = queue.SimpleQueue(), waiting
        self.active, self.closed, self.counts = [], False, dict.fromkeys(Stats._fields, 0)
        self.replies = answer
        self.seen = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, request, listener):
        if self.closed:
            raise ClosedError("closed")
        if request.adapter is not None and not self.has_adapter(request.adapter):
            raise UnknownAdapterError(f"no adapter {request.adapter!r}")
        if len(request.tokens) > self.max_length:
            raise InvalidRequestError("the prompt is too long")
        if self.waiting.qsize() >= self._most:
            raise BusyError("full")
        ticket = FakeTicket()
        with self._lock:
            self.counts["requests"] += 1
        self.seen.append(request)
        self.waiting.put((request, listener, ticket))
        return ticket

    def adapters(self, after="", most=100):
        return [name for name in sorted(self.names) if name > after][:most]

    def has_adapter(self, name):
        return name in self.names

    def stats(self):
        now = {"slots": self.slots, "active": len(self.active), "waiting": self.waiting.qsize()}
        return Stats(**{**self.counts, **now})

    def close(self, drain=True, timeout=None):
        self.closed = True
        end = time.monotonic() + (timeout if timeout is not None else 60)
        while drain and (self.active or self.waiting.qsize()) and time.monotonic() < end:
            time.sleep(0.01)
        for _, _, ticket, _ in self.active:
            ticket.cancel()
        self.waiting.put(None)
        self._thread.join(5)

    def _work(self):
        while True:
            while len(self.active) < self.slots and (self.waiting.qsize() or not self.active):
                found = self.waiting.get()
                if found is None:
                    return
                self.active.append((*found, iter(self.replies(found[0], self.vocabulary))))
            time.sleep(self.pause)
            self.active = [each for each in self.active if self._step(*each)]

    def _step(self, request, listener, ticket, tokens):
        """Whether it goes on."""
        if ticket.cancelled.is_set():
            self.counts["cancelled"] += 1
            listener(Finish("cancelled"))
            return False
        if (id_ := next(tokens, None)) is not None:
            self.counts["generated_tokens"] += 1
            if isinstance(id_, Finish):
                listener(id_)
                return False
            listener(scored(id_, request.sampling.logprobs, self.vocabulary))
            return True
        prompt = None
        if request.echo_logprobs is not None:
            first, *rest = request.tokens
            scores = [scored(id_, request.echo_logprobs, self.vocabulary) for id_ in rest]
            prompt = (Token(first), *scores)
        listener(Finish("length", prompt_logprobs=prompt))
        return False


@contextlib.contextmanager
def serving(engine, tokenizer, drain_seconds=5.0, **fields):
    """A server in a thread; gives its address, and the server with its service."""
    service = Service(engine, Codec(tokenizer), "base", **fields)
    socket = listen("127.0.0.1", 0)
    server = Server(service, drain_seconds)
    server.service = service
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}", server
    finally:
        server.should_exit = True
        thread.join(120)
        assert not thread.is_alive()
        engine.close(drain=False)
