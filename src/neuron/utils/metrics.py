"""The worker's Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

_LOAD_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)
_JOB_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class WorkerMetrics:
    """Every metric by name; services count, the API shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.worker = Info("neuron_worker", "Who this worker is.", registry=self.registry)
        self.ready = self._gauge("neuron_worker_ready", "1 while the worker takes jobs.")
        self.slots = self._gauge("neuron_slots", "Job slots by state.", "state")
        self.jobs = Counter(
            "neuron_jobs", "Ended attempts by status.", ["status"], registry=self.registry
        )
        self._jobs_by_status: dict[str, Counter] = {}
        self.job_seconds = self._histogram(
            "neuron_job_duration_seconds", "Time of an attempt.", _JOB_BUCKETS
        )
        self.tokens = self._counter("neuron_tokens_generated", "Tokens generated.")
        self.load_seconds = self._histogram(
            "neuron_model_load_seconds", "Time to load a model.", _LOAD_BUCKETS
        )
        self.load_phase_seconds = Histogram(
            "neuron_model_load_phase_seconds",
            "Time of the phases of loading a model: download, room, start.",
            ["phase"],
            buckets=_LOAD_BUCKETS,
            registry=self.registry,
        )
        for phase in ("download", "room", "start"):
            self.load_phase_seconds.labels(phase)
        self.models_loaded = self._gauge("neuron_models_loaded", "Models resident now.")
        self.engine_crashes = self._counter("neuron_engine_crashes", "Engines that died.")
        self.download_bytes = self._counter("neuron_download_bytes", "Model bytes downloaded.")
        self.cache_bytes = self._gauge(
            "neuron_model_cache_bytes", "What the model cache holds on disk."
        )
        self.cache_limit_bytes = self._gauge(
            "neuron_model_cache_limit_bytes", "What the model cache may hold."
        )
        self.cache_looks = Counter(
            "neuron_model_cache_looks",
            "Loads by whether the model was here.",
            ["outcome"],
            registry=self.registry,
        )
        self.cache_evictions = self._counter(
            "neuron_model_cache_evictions", "Models that made room for others on disk."
        )
        self.prefetches = Counter(
            "neuron_prefetches",
            "Downloads that no job waited for, by how they ended.",
            ["outcome"],
            registry=self.registry,
        )
        self.heartbeat_failures = self._counter(
            "neuron_heartbeat_failures", "Heartbeats that did not arrive."
        )
        self.renewal_failures = self._counter(
            "neuron_lease_renewal_failures", "Lease renewals that did not arrive."
        )
        self.unreported = self._gauge(
            "neuron_unreported_results", "Results that CORTEX has not acknowledged."
        )
        self.unacknowledged_bytes = self._gauge(
            "neuron_stream_unacknowledged_bytes", "Streamed tokens not acknowledged."
        )
        self.outbox_reports = self._gauge(
            "neuron_outbox_reports", "Reports on disk that CORTEX has not judged."
        )
        self.outbox_bytes = self._gauge("neuron_outbox_bytes", "What the outbox keeps on disk.")
        self.outbox_full = self._gauge(
            "neuron_outbox_full", "1 while the outbox has no room and no jobs are asked for."
        )
        self.cpu_percent = self._gauge("neuron_cpu_percent", "CPU in use.")
        self.memory_available = self._gauge(
            "neuron_memory_available_bytes", "Memory available to this worker."
        )
        self.gpu_memory_available = self._gauge(
            "neuron_gpu_memory_available_bytes", "GPU memory available.", "gpu"
        )
        self.gpu_utilization = self._gauge("neuron_gpu_utilization_percent", "GPU in use.", "gpu")

    def jobs_ended(self, status: str) -> Counter:
        """The counter of attempts that ended so."""
        counter = self._jobs_by_status.get(status)
        if counter is None:
            counter = self._jobs_by_status[status] = self.jobs.labels(status)
        return counter

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)
