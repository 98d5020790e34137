"""A server that ends its answers before it ends."""

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import uvicorn

from tera_jax.serve.http import app
from tera_jax.serve.http.service import Service

_FLUSH_SECONDS = 5
"""In which what was answered goes out to slow clients, when the server ends."""
_BACKLOG = 2048
_SWITCH_SECONDS = 0.0002
"""For which the event loop keeps the interpreter from the engine's thread, at most."""


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 takes a free one.

    Raises:
        ValueError: for an address that is no one's, or taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((host, port))
        except BaseException:
            found.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"{host}:{port} cannot be listened at ({reason}); choose --host and --port"
        raise ValueError(message) from None
    return found


def keep_what_is_loaded() -> None:
    """Leave all objects that there are out of garbage collection. For a process that only serves.

    To look through JAX's modules and a tokenizer stops every thread for tenths of a second.
    """
    gc.collect()
    gc.freeze()


class Server(uvicorn.Server):
    """Of one service. A signal lets it end: no new requests, and answers have some seconds left.

    Args:
        service: that answers.
        drain_seconds: for the answers that are under way.
    """

    def __init__(self, service: Service, drain_seconds: float = 30.0) -> None:
        config = uvicorn.Config(
            app.build(service),
            log_config=None,  # the loggers are the program's
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_FLUSH_SECONDS,
        )
        super().__init__(config)
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._service, self._drain_seconds = service, drain_seconds
        self._ending: asyncio.Task[None] | None = None

    def end(self) -> None:
        """Let it end, in its event loop; a second time at once."""
        if self._ending is None:
            self._service.closing.set()
            self._ending = asyncio.get_running_loop().create_task(self._end())
        else:
            self.force_exit = self.should_exit = True

    async def _end(self) -> None:
        """The listener stays open meanwhile: who asks is told that the server ends."""
        closed = threading.Event()

        def close() -> None:
            with contextlib.suppress(Exception):
                self._service.engine.close(drain=True, timeout=self._drain_seconds)
            closed.set()

        threading.Thread(target=close, name="tera-close", daemon=True).start()
        while not closed.is_set():
            await asyncio.sleep(0.05)
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """In place of uvicorn's, which closes the listener and hands the signal on."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        kinds = (signal.SIGINT, signal.SIGTERM)
        for kind in kinds:
            loop.add_signal_handler(kind, self.end)
        yield
        for kind in kinds:
            loop.remove_signal_handler(kind)
