"""Sending traces to an OTLP collector, where the operator names one."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from threading import Event
from typing import Any

import structlog
from opentelemetry import trace

logger = structlog.get_logger(__name__)


_collected = Event()
_NO_SPAN = nullcontext(trace.INVALID_SPAN)


def span_around(name: str) -> AbstractContextManager[trace.Span]:
    """Return a span to be entered; where nobody collects any, one that costs nothing."""
    if not _collected.is_set():
        return _NO_SPAN
    return trace.get_tracer(__name__).start_as_current_span(name)


def configure_tracing(endpoint: str | None, worker_version: str) -> None:
    """Export spans to `endpoint`; without one, or without the `otel` extra, spans cost nothing."""
    if not endpoint:
        return
    try:
        # Untyped and optional, so looked up by name.
        sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
        export: Any = importlib.import_module("opentelemetry.sdk.trace.export")
        resources: Any = importlib.import_module("opentelemetry.sdk.resources")
        otlp: Any = importlib.import_module("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")
    except ImportError:
        logger.warning(
            "tracing_unavailable", endpoint=endpoint, install="pip install 'mnemos-neuron[otel]'"
        )
        return
    resource = resources.Resource.create(
        {"service.name": "neuron", "service.version": worker_version}
    )
    provider = sdk.TracerProvider(resource=resource)
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(provider)
    _collected.set()
