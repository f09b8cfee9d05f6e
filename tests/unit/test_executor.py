# mypy: disable-error-code="no-untyped-def, arg-type"
"""Unit tests for executor service."""

# ruff: noqa: TID251 - the specification's own test file, with its Mock clients

from unittest.mock import Mock

import pytest

from neuron.services.executor import ExecutorService


@pytest.mark.asyncio
async def test_executor_can_accept_job(settings, worker_info):
    """Test capacity check."""
    executor = ExecutorService(settings, worker_info.worker_id, Mock(), Mock(), Mock())

    assert executor.can_accept_job()
    assert len(executor.get_active_job_ids()) == 0


@pytest.mark.asyncio
async def test_executor_at_capacity(settings, worker_info, sample_job):
    """Test at capacity."""
    executor = ExecutorService(settings, worker_info.worker_id, Mock(), Mock(), Mock())
    executor.max_concurrent = 1

    # Submit one job
    await executor.submit_job(sample_job)

    # Should be at capacity
    assert not executor.can_accept_job()

    # Submitting another should raise
    with pytest.raises(RuntimeError):
        await executor.submit_job(sample_job)
