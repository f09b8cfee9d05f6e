"""What Prometheus is told: counted at commits, and read from the store at a scrape."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from mnemos import __version__

from .demand import by_model
from .numbers import Measurements, QueueNumbers, Totals

_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Distribution(Collector):
    """A histogram that is told of many values at a time, from one thread.

    The library's own takes a lock and looks through the buckets for each; a commit may bring
    hundreds.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._bounds = [float(bound) for bound in bounds]
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def count(self, values: Sequence[float]) -> None:
        """Count values into their buckets."""
        for value in values:
            self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += sum(values)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Return what the registry shows."""
        names = [*map(str, self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum)


class CortexMetrics:
    """The metrics of one CORTEX, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._ended = Counter(
            "neuron_jobs", "Jobs that reached an end", ["state"], registry=registry
        )
        self._queue = Gauge("neuron_queue_jobs", "Jobs that wait", ["priority"], registry=registry)
        self._demand = Gauge(
            "neuron_demand_jobs",
            "Jobs of a model that wait or run, and what they ask of a worker",
            ["runtime", "family", "version", "min_memory_mb", "min_gpu_memory_mb", "state"],
            registry=registry,
        )
        self._delayed = Gauge(
            "neuron_queue_delayed_jobs", "Jobs that wait for a retry", registry=registry
        )
        self._oldest = Gauge(
            "neuron_queue_oldest_seconds", "How long the oldest waits", registry=registry
        )
        self._wait = Distribution(
            "neuron_job_wait_seconds", "From submission to the first claim", _SECONDS
        )
        self._duration = Distribution(
            "neuron_job_duration_seconds", "From the first claim to the end", _SECONDS
        )
        self._attempts = Distribution(
            "neuron_job_attempts", "Attempts that an ended job took", (1, 2, 3, 4, 5, 10, 20)
        )
        for distribution in (self._wait, self._duration, self._attempts):
            registry.register(distribution)
        self._expired = Counter(
            "neuron_leases_expired", "Attempts lost with their worker", registry=registry
        )
        self._pruned = Counter(
            "neuron_pruned",
            "What was kept long enough: jobs, and logs of jobs that stay",
            ["kind"],
            registry=registry,
        )
        for kind in ("jobs", "logs"):
            self._pruned.labels(kind=kind)
        self._workers = Gauge("neuron_workers", "Workers", ["state"], registry=registry)
        self._tokens = Counter("neuron_tokens", "Tokens generated", registry=registry)
        build = Gauge("mnemos_cortex_build_info", "Version", ["version"], registry=registry)
        build.labels(version=__version__).set(1)

    def measure(self, happened: Measurements) -> None:
        """Count what a commit brought."""
        for state, count in happened.ended.items():
            self._ended.labels(state=state).inc(count)
        self._wait.count(happened.waits)
        self._duration.count(happened.durations)
        self._attempts.count(happened.attempts)
        self._tokens.inc(happened.tokens)
        self._expired.inc(happened.leases_expired)

    def pruned(self, *, logs: int, jobs: int) -> None:
        """Count what retention took away."""
        self._pruned.labels(kind="logs").inc(logs)
        self._pruned.labels(kind="jobs").inc(jobs)

    def render(self, queue: QueueNumbers, totals: Totals) -> bytes:
        """Return everything in Prometheus's text format, the gauges as they stand now."""
        by_priority: Tally[int] = Tally()
        for lane in queue.lanes:
            by_priority[lane.priority] += lane.pending
        for priority in range(1, 11):
            self._queue.labels(priority=str(priority)).set(by_priority[priority])
        self._demand.clear()
        for one in by_model(queue.lanes):
            model = (one.model.runtime, one.model.family, one.model.version)
            kind = (*model, str(one.min_memory_mb), str(one.min_gpu_memory_mb))
            self._demand.labels(*kind, "waiting").set(one.waiting)
            self._demand.labels(*kind, "running").set(one.running)
        self._delayed.set(queue.delayed)
        self._oldest.set(queue.oldest_pending_seconds)
        self._workers.clear()
        for state, count in totals.workers.items():
            self._workers.labels(state=state).set(count)
        return generate_latest(self.registry)
