"""GENOME's numbers, in Prometheus' format; one registry per app, so that tests may have many."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10)


class GenomeMetrics:
    """Counts requests by route, never by raw path: a scanner must not grow the series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.models = Gauge(
            "genome_models", "Registered versions of models.", registry=self.registry
        )
        self.requests = Counter(
            "genome_http_requests_total",
            "HTTP requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "genome_http_request_duration_seconds",
            "Time to the end of the answer.",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )

    def render(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self.registry)


class MetricsMiddleware:
    """Counts what passes through."""

    def __init__(self, app: ASGIApp, metrics: GenomeMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        status = 500

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_noting_status)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if route != "unknown" else "any"
            self.metrics.requests.labels(method, route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - started)
