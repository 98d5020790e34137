"""From the engine's thread to the event loop: all that came meanwhile, in one call."""

import asyncio
import collections
import contextlib

from tera_jax.serve.requests import Finish, Listener, Token

Event = tuple[int, Token | Finish]
"""The index of an answer, and what came for it."""


class Inbox:
    """The events of one HTTP request, in their order. Belongs to the event loop."""

    def __init__(self, mailbox: "Mailbox") -> None:
        self._mailbox = mailbox
        self._events: list[Event] = []
        self._filled = asyncio.Event()

    def listener(self, index: int) -> Listener:
        """What the engine calls for the answer of an index, from any thread."""
        return lambda event: self._mailbox.post(self, (index, event))

    def put(self, event: Event) -> None:
        """In the loop."""
        self._events.append(event)
        self._filled.set()

    async def take(self) -> list[Event]:
        """All events that are there; waits for one."""
        await self._filled.wait()
        self._filled.clear()
        events, self._events = self._events, []
        return events


class Mailbox:
    """Between one engine and one event loop.

    A step of the engine brings a token for every slot. The loop is woken once for all of them.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._posts: collections.deque[tuple[Inbox, Event]] = collections.deque()
        self._is_called = False

    def inbox(self) -> Inbox:
        """For one HTTP request; called in the loop."""
        self._loop = asyncio.get_running_loop()
        return Inbox(self)

    def post(self, inbox: Inbox, event: Event) -> None:
        """From any thread."""
        self._posts.append((inbox, event))
        if not self._is_called and self._loop is not None:
            self._is_called = True
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_called = False  # first: what is posted from here on calls again
        while self._posts:
            inbox, event = self._posts.popleft()
            inbox.put(event)
