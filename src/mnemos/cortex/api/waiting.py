"""Why a job waits, in one sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..clock import as_text
from ..records import DesiredState, JobRecord, WorkerRecord


def waiting_reason(job: JobRecord, workers: Sequence[WorkerRecord]) -> str:
    """Say what must happen before some worker takes the pending job."""
    if job.delayed:
        when = as_text(job.available_at)
        if job.status_message:
            return f"the next attempt waits until {when}; {job.status_message}"
        return f"the next attempt waits until {when}"
    return _for_want_of_a_worker(job, workers)


def _for_want_of_a_worker(job: JobRecord, workers: Sequence[WorkerRecord]) -> str:
    alive = [worker for worker in workers if not worker.lost]
    if not alive:
        lost = f" ({len(workers)} were lost)" if workers else ""
        return f"no worker is registered{lost}"
    told = [(worker, json.loads(worker.capabilities)) for worker in alive]
    offering = [pair for pair in told if job.runtime in pair[1]["supported_runtimes"]]
    if not offering:
        return _runtime_missing(job, told)
    typed = [pair for pair in offering if _takes(pair[1], job.job_type)]
    if not typed:
        return f"no registered worker takes jobs of type {job.job_type}"
    tags: dict[str, str] = json.loads(job.tags)
    tagged = [worker for worker, _ in typed if _carries(worker, tags)]
    if not tagged:
        wanted = ", ".join(f"{name}={value}" for name, value in sorted(tags.items()))
        return f"no registered worker carries the tags {wanted}"
    roomy = [worker for worker in tagged if _has_room(worker, job)]
    if not roomy:
        return _memory_missing(job, tagged)
    active = [worker for worker in roomy if worker.desired_state is DesiredState.ACTIVE]
    if not active:
        states = ", ".join(sorted({worker.desired_state.value for worker in roomy}))
        return f"every worker that fits takes no new jobs now ({states})"
    return _busy(active)


def _runtime_missing(job: JobRecord, told: Sequence[tuple[WorkerRecord, dict[str, Any]]]) -> str:
    offered = sorted({name for _, can in told for name in can["supported_runtimes"]})
    sentence = f"no registered worker offers the runtime {job.runtime}"
    sentence += f" (workers offer: {', '.join(offered)})"
    for worker, can in told:
        why = can["unavailable_runtimes"].get(job.runtime)
        if why:
            return f"{sentence}; {worker.worker_id} says: {why}"
    return sentence


def _memory_missing(job: JobRecord, workers: Sequence[WorkerRecord]) -> str:
    offers = [_offer(worker) for worker in workers]
    kinds = (
        ("memory", job.min_memory_mb, max(memory for memory, _ in offers)),
        ("GPU memory", job.min_gpu_memory_mb, max(gpu_memory for _, gpu_memory in offers)),
    )
    for kind, needed, most in kinds:
        if needed > most:
            at_all = f"more than {most} MB of {kind}" if most else f"any {kind}"
            return f"no worker offers {at_all} to models, and the job needs {needed} MB"
    needs = " and ".join(f"{needed} MB of {kind}" for kind, needed, _ in kinds)
    return f"no worker offers {needs} together"


def _busy(active: Sequence[WorkerRecord]) -> str:
    free = [worker for worker in active if worker.status == "idle"]
    if free:
        return f"a fitting worker ({free[0].worker_id}) will be given it when it asks next"
    count = len(active)
    if count == 1:
        return f"the one fitting worker is {active[0].status}"
    return f"all {count} fitting workers are busy"


def _takes(capabilities: dict[str, Any], job_type: str) -> bool:
    return job_type in (capabilities["job_types"] or ("inference", "batch_inference"))


def _carries(worker: WorkerRecord, wanted: dict[str, str]) -> bool:
    tags = json.loads(worker.tags)
    return all(tags.get(name) == value for name, value in wanted.items())


def _has_room(worker: WorkerRecord, job: JobRecord) -> bool:
    memory_mb, gpu_memory_mb = _offer(worker)
    return job.min_memory_mb <= memory_mb and job.min_gpu_memory_mb <= gpu_memory_mb


def _offer(worker: WorkerRecord) -> tuple[int, int]:
    """The most memory and GPU memory, in MB, that the worker has for a model.

    Until it has asked for jobs, and said so, that is all there is in the machine.
    """
    if worker.offered_memory_mb or worker.offered_gpu_memory_mb:
        return worker.offered_memory_mb, worker.offered_gpu_memory_mb
    resources = json.loads(worker.resources)
    gpus = (int(gpu["total_memory_mb"]) for gpu in resources["gpus"])
    return int(resources["memory_total_mb"]), max(gpus, default=0)
