"""The worker's Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

_LOAD_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)
_JOB_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class WorkerMetrics:
    """Every metric by name; services count, the API shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made = {"registry": self.registry}
        self.worker = Info("neuron_worker", "Who this worker is.", **made)
        self.ready = Gauge("neuron_worker_ready", "1 while the worker takes jobs.", **made)
        self.slots = Gauge("neuron_slots", "Job slots by state.", ["state"], **made)
        self.jobs = Counter("neuron_jobs", "Ended attempts by status.", ["status"], **made)
        self.job_seconds = Histogram(
            "neuron_job_duration_seconds", "Time of an attempt.", buckets=_JOB_BUCKETS, **made
        )
        self.tokens = Counter("neuron_tokens_generated", "Tokens generated.", **made)
        self.load_seconds = Histogram(
            "neuron_model_load_seconds", "Time to load a model.", buckets=_LOAD_BUCKETS, **made
        )
        self.models_loaded = Gauge("neuron_models_loaded", "Models resident now.", **made)
        self.engine_crashes = Counter("neuron_engine_crashes", "Engines that died.", **made)
        self.download_bytes = Counter("neuron_download_bytes", "Model bytes downloaded.", **made)
        self.heartbeat_failures = Counter(
            "neuron_heartbeat_failures", "Heartbeats that did not arrive.", **made
        )
        self.renewal_failures = Counter(
            "neuron_lease_renewal_failures", "Lease renewals that did not arrive.", **made
        )
        self.unreported = Gauge(
            "neuron_unreported_results", "Results that CORTEX has not acknowledged.", **made
        )
        self.unacknowledged_bytes = Gauge(
            "neuron_stream_unacknowledged_bytes", "Streamed tokens not acknowledged.", **made
        )
        self.cpu_percent = Gauge("neuron_cpu_percent", "CPU in use.", **made)
        self.memory_available = Gauge(
            "neuron_memory_available_bytes", "Memory available to this worker.", **made
        )
        self.gpu_memory_available = Gauge(
            "neuron_gpu_memory_available_bytes", "GPU memory available.", ["gpu"], **made
        )
        self.gpu_utilization = Gauge(
            "neuron_gpu_utilization_percent", "GPU in use.", ["gpu"], **made
        )
