"""Continuous batching in fixed slots: each request has an adapter of its own.

    engine = Engine.of_store(model, params, Store.open("store"), EngineConfig(slots=64))
    engine.submit(Request((1, 5, 9), "ana", Sampling(max_tokens=64)), print)
    engine.close()

One thread owns the slots. In each turn it begins what waits, starts the next step, and only then
reads the tokens of the last one: the device never waits for the host. Adapters are read from the
store, and put on the device, by other threads. A slot holds a copy of its adapter, so that an
answer ends with the one it began.
"""

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from tera_jax.adapters.base import Adapter
from tera_jax.llama.model import Llama
from tera_jax.serve.engine import loading
from tera_jax.serve.engine.adapter_source import OnDevice, Source
from tera_jax.serve.engine.answer import Answer, require_fits
from tera_jax.serve.engine.device_adapters import DeviceAdapters
from tera_jax.serve.engine.scheduler import Scheduler, Turn
from tera_jax.serve.engine.slot_device import SlotDevice
from tera_jax.serve.engine.waiting import Waiting
from tera_jax.serve.engine_config import EngineConfig
from tera_jax.serve.requests import ClosedError, Listener, Request, Stats, UnknownAdapterError
from tera_jax.serve.store import Store

_log = logging.getLogger(__name__)


class Engine:
    """Answers requests; :class:`tera_jax.serve.requests.Engine` says how it is used.

    It is made by :meth:`of_store`, :meth:`of_adapter` or :meth:`of_base`, which return when every
    shape is compiled.
    """

    def __init__(
        self, device: SlotDevice, source: Source, config: EngineConfig, mesh: Any = None
    ) -> None:
        self._device, self._source, self._config = device, source, config
        self._mesh = mesh
        self._changed = threading.Condition()
        self._adapters = DeviceAdapters(source, device.place, config.loaders, config.device_bytes)
        self._waiting = Waiting(config.queue, 2 * config.slots, self._load)
        self._scheduler = Scheduler(device, self._waiting, config, self._changed)
        self._requests = 0
        self._closing = False
        self._is_ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tera-jax-engine", daemon=True)
        self._thread.start()
        self._is_ready.wait()
        if self._failure is not None:
            self.close()
            raise self._failure

    @classmethod
    def of_base(
        cls, model: Llama, params: Any, config: EngineConfig | None = None, mesh: Any = None
    ) -> "Engine":
        """The base alone.

        Args:
            model: the base's.
            params: its weights, on the mesh if there is one. Where the model unrolls its layers
                they had better be a list (:mod:`tera_jax.llama.stacking`).
            config: sizes and limits.
            mesh: from :func:`tera_jax.sharding.make_mesh`.

        Raises:
            ValueError: for sizes that do not fit the model or the mesh.
        """
        return cls(*loading.base_alone(model, params, config or EngineConfig(), mesh))

    @classmethod
    def of_adapter(
        cls,
        model: Llama,
        adapter: Adapter,
        variables: Mapping[str, Any],
        name: str,
        config: EngineConfig | None = None,
        mesh: Any = None,
    ) -> "Engine":
        """The base and one adapter.

        Args:
            model: the base's.
            adapter: from :func:`tera_jax.adapt` or :func:`tera_jax.load_adapter`.
            variables: ``params``, ``frozen`` and ``d``.
            name: under which requests find it.
            config: as in :meth:`of_base`.
            mesh: likewise.

        Raises:
            NotByRowsError: for a method that trains all parameters; merge it, and serve the base.
            ValueError: as :meth:`of_base`, and for a name that is none.
        """
        given = (model, adapter, variables, name, config or EngineConfig(), mesh)
        return cls(*loading.one_adapter(*given))

    @classmethod
    def of_store(
        cls,
        model: Llama,
        params: Any,
        store: Store,
        config: EngineConfig | None = None,
        mesh: Any = None,
        base_fingerprint: str | None = None,
    ) -> "Engine":
        """The base and all adapters of a store.

        Args:
            model: the base's.
            params: as in :meth:`of_base`.
            store: of adapters of this base. The engine opens it again for itself.
            config: as in :meth:`of_base`.
            mesh: likewise.
            base_fingerprint: of the weights (:func:`tera_jax.fingerprint.base_fingerprint`), where
                it is known; needed where their layers are a list.

        Raises:
            NotByRowsError: as :meth:`of_adapter`.
            ValueError: as :meth:`of_base`, and when the store is of another base or its frozen
                network is another here.
        """
        given = (model, params, store, config or EngineConfig(), mesh, base_fingerprint)
        return cls(*loading.of_store(*given))

    @property
    def max_length(self) -> int:
        """Tokens of a slot: those of a prompt and its answer together."""
        return self._config.max_length

    @property
    def slots(self) -> int:
        """Requests that are answered at once."""
        return self._config.slots

    @property
    def vocabulary(self) -> int:
        """Tokens of the model: ids are below it."""
        return self._device.model.config.vocab_size

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests: after :meth:`close`, or when it has stopped."""
        return self._closing

    def submit(self, request: Request, listener: Listener) -> Answer:
        """Take a request; :meth:`tera_jax.serve.requests.Engine.submit`.

        Raises:
            UnknownAdapterError: when there is no adapter of this name.
            InvalidRequestError: for a prompt that is too long, or a token that is none.
            BusyError: when the queue is full.
            ClosedError: after :meth:`close`.
        """
        self._require_open()
        require_fits(request, self._config, self.vocabulary)
        newest = None if request.adapter is None else self._newest(request.adapter)
        answer = Answer(request, listener, self._config, self._scheduler.leave, newest)
        with self._changed:
            self._require_open()
            self._waiting.add(answer)
            self._requests += 1
            self._changed.notify_all()
        return answer

    def adapters(self, after: str = "", most: int = 100) -> list[str]:
        """Names in their order, behind ``after``: a page of at most ``most``."""
        return self._source.names(after, most)

    def has_adapter(self, name: str) -> bool:
        """Whether there is an adapter of this name."""
        return self._source.has(name)

    def stats(self) -> Stats:
        """Counts of now."""
        with self._changed:
            return Stats(
                slots=self.slots,
                active=len(self._scheduler.answers),
                waiting=len(self._waiting),
                store_hits=self._source.hits + self._adapters.hits,
                store_misses=self._source.misses,
                host_bytes=self._source.host_bytes,
                requests=self._requests,
                **self._scheduler.counts,
            )

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Take no more requests, end those that are there, and stop.

        Args:
            drain: whether the requests that were taken are answered; else they are cancelled.
            timeout: seconds after which those that are left are cancelled; None waits.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is self._thread:
            raise RuntimeError("a listener closes its engine; close it from another thread")
        if drain:
            self._thread.join(timeout)
        self._scheduler.leave_all()
        self._thread.join()
        self._adapters.close()
        self._source.close()

    def _require_open(self) -> None:
        if self._closing:
            raise ClosedError("the engine has been closed; send the request to another one")

    def _newest(self, name: str) -> int | None:
        """The version of an adapter. The engine's thread never waits for the store's index."""
        found = self._source.version(name)
        if found is None and not self._source.has(name):
            raise UnknownAdapterError(f"no adapter {name!r}; see the list of adapters")
        return found

    def _load(self, name: str, version: int | None) -> Future[OnDevice]:
        future = self._adapters.start(name, version)
        if not future.done():
            future.add_done_callback(lambda _: self._wake())
        return future

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # What follows is the engine's thread.

    def _run(self) -> None:
        last: Turn | None = None
        try:
            with loading.on(self._mesh):
                self._device.warm()
                self._is_ready.set()
                while self._wait(last):
                    last = self._scheduler.turn(last)
        except BaseException as error:
            self._failure = error
            _log.exception("the engine has stopped")
        finally:
            with self._changed:
                self._closing = True
                left = [*self._waiting.all(), *self._scheduler.taken]
            for answer in left:
                answer.end("error", "the engine has stopped; send the request again")
            self._is_ready.set()

    def _wait(self, last: Turn | None) -> bool:
        """Until there is something to do; False at the end."""
        with self._changed:
            while True:
                if last is not None or self._scheduler.has_work:
                    return True
                if self._closing and not self._waiting:
                    return False
                self._changed.wait()
