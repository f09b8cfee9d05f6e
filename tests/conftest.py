# mypy: disable-error-code="no-untyped-def, arg-type"
"""Shared test fixtures."""

from datetime import UTC, datetime

import pytest

from neuron.config import Settings
from neuron.models.job import JobInput, JobPriority, JobSpec, JobType, ModelConfig
from neuron.models.worker import WorkerCapabilities, WorkerInfo


@pytest.fixture
def settings():
    """Test settings."""
    return Settings(
        cortex_grpc_url="test-cortex:9090",
        genome_http_url="http://test-genome:8081",
        minio_endpoint="test-engram:9000",
        supported_runtimes=["vllm"],
        max_concurrent_jobs=2,
    )


@pytest.fixture
def worker_info():
    """Mock worker info."""
    return WorkerInfo(
        worker_id="test_worker_123",
        hostname="test-worker",
        status="idle",
        capabilities=WorkerCapabilities(
            supported_runtimes=["vllm"],
            max_concurrent_jobs=2,
            supports_streaming=True,
            supports_gpu=True,
            max_model_size_gb=40,
        ),
        current_jobs=[],
        total_jobs_completed=0,
        total_jobs_failed=0,
        last_heartbeat=datetime.now(UTC),
        registered_at=datetime.now(UTC),
        updated_at=datetime.now(UTC),
    )


@pytest.fixture
def sample_job():
    """Sample job spec."""
    return JobSpec(
        job_id="job_test_456",
        job_type=JobType.INFERENCE,
        priority=JobPriority.NORMAL,
        model=ModelConfig(family="llama-2", version="7b-chat", runtime="vllm", runtime_config={}),
        input=JobInput(prompt="Hello, world!", parameters={"max_tokens": 100}),
        timeout_seconds=300,
    )
