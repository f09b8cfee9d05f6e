"""Metrics, from the registries that serve them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from mnemos.cortex.telemetry import CortexMetrics
from mnemos.genome.metrics import GenomeMetrics
from neuron.utils.metrics import WorkerMetrics

from .markdown import code, head, table

_TEXT = """
Each process shows its own at `/metrics`, in Prometheus's text format: a worker on port 8000, CORTEX
on 8080, GENOME on 8081.
"""


def page() -> str:
    """Return the page."""
    parts = [head("Metrics", _TEXT.strip())]
    for title, registry in (
        ("NEURON", WorkerMetrics().registry),
        ("CORTEX", CortexMetrics().registry),
        ("GENOME", GenomeMetrics().registry),
    ):
        parts.append(f"\n## {title}\n\n{table(('metric', 'kind', ''), _rows(registry))}")
    return "".join(parts)


def _rows(registry: CollectorRegistry) -> list[tuple[str, str, str]]:
    families = sorted(registry.collect(), key=lambda family: family.name)
    return [(code(_shown(one.name, one.type)), one.type, one.documentation) for one in families]


def _shown(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" else name
