"""Counts and times of a server in Prometheus's text format. No label has an adapter's name."""

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tera_jax.serve.requests import Stats

PATHS = frozenset(
    [
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/health",
        "/metrics",
        "/",
    ]
)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_GAUGES = {
    "slots": "requests that are answered at once, at most",
    "active": "requests in a slot",
    "waiting": "requests without a slot",
    "host_bytes": "bytes of adapters in host memory",
}


class Metrics:
    """Of one server; the middleware :class:`Counted` fills them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.responses = Counter(
            "tera_http_responses", "by path and status", ["path", "status"], registry=registry
        )
        self.open = Gauge("tera_http_open", "requests that are open", registry=registry)
        self.seconds = Histogram(
            "tera_http_seconds",
            "from a request to the end of its response",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_byte = Histogram(
            "tera_http_first_seconds",
            "from a request to the first bytes of its answer",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )

    def read_engine(self, stats: Callable[[], Stats]) -> None:
        """Tell an engine's counts too, as they are when someone asks."""
        self._registry.register(_Engine(stats))

    def text(self) -> bytes:
        """All of them now."""
        return generate_latest(self._registry)


class _Engine(Collector):
    def __init__(self, stats: Callable[[], Stats]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        """As prometheus_client has it."""
        for name, value in self._stats()._asdict().items():
            if name in _GAUGES:
                yield GaugeMetricFamily(f"tera_engine_{name}", _GAUGES[name], value=value)
            else:
                text = f"{name.replace('_', ' ')} since the start"
                yield CounterMetricFamily(f"tera_engine_{name}", text, value=value)


class Counted:
    """Middleware that counts and times every response.

    Args:
        app: inside.
        metrics: that are filled.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else "other"
        start, status, is_first = time.perf_counter(), 499, True  # 499: the client left before

        async def watched(message: Message) -> None:
            nonlocal status, is_first
            if message["type"] == "http.response.start":
                status = message["status"]
            elif is_first and message.get("body"):
                is_first = False
                self._metrics.first_byte.labels(path).observe(time.perf_counter() - start)
            await send(message)

        with self._metrics.open.track_inprogress():
            try:
                await self._app(scope, receive, watched)
            finally:
                self._metrics.responses.labels(path, str(status)).inc()
                self._metrics.seconds.labels(path).observe(time.perf_counter() - start)
