"""What a job waits for: a code for programs, a sentence for people."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..records import DesiredState, JobRecord, WorkerRecord

Code: TypeAlias = Literal[
    "retry_later",
    "no_worker",
    "runtime_missing",
    "job_type_missing",
    "tag_missing",
    "memory_missing",
    "gpu_memory_missing",
    "workers_stopped",
    "workers_not_ready",
    "workers_busy",
    "next_poll",
]


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """What must come before a worker takes a pending job."""

    code: Code
    message: str


def waiting_for(job: JobRecord, workers: Sequence[WorkerRecord], now: float) -> WaitingFor:
    """Say what a pending job waits for, given all workers that are known and the time."""
    if job.delayed:
        return _for_its_time(job, now)
    alive = [worker for worker in workers if not worker.lost]
    if not alive:
        lost = f" ({len(workers)} were lost)" if workers else ""
        return WaitingFor("no_worker", f"no worker is registered{lost}")
    for keep, explain in _DEMANDS:
        fitting = [worker for worker in alive if keep(job, worker)]
        if not fitting:
            return explain(job, alive)
        alive = fitting
    return _for_a_place(alive)


def _for_its_time(job: JobRecord, now: float) -> WaitingFor:
    seconds = max(1, math.ceil(job.available_at - now))
    why = f"; {job.status_message}" if job.status_message else ""
    return WaitingFor("retry_later", f"retry in {seconds} s{why}")


# ---------------------------------------------------------------- what workers are


def _offers_runtime(job: JobRecord, worker: WorkerRecord) -> bool:
    return job.runtime in _can(worker)["supported_runtimes"]


def _takes_type(job: JobRecord, worker: WorkerRecord) -> bool:
    return job.job_type in (_can(worker)["job_types"] or ("inference", "batch_inference"))


def _has_tags(job: JobRecord, worker: WorkerRecord) -> bool:
    tags = json.loads(worker.tags)
    return all(tags.get(name) == value for name, value in json.loads(job.tags).items())


def _has_room(job: JobRecord, worker: WorkerRecord) -> bool:
    """A worker that has the model takes its jobs, unless one turned out to need more."""
    if job.attempt == 0 and _has_model(job, worker):
        return True
    memory_mb, gpu_memory_mb = _offer(worker)
    return job.min_memory_mb <= memory_mb and job.min_gpu_memory_mb <= gpu_memory_mb


def _has_model(job: JobRecord, worker: WorkerRecord) -> bool:
    wanted = (job.family, job.version, job.runtime)
    loaded = json.loads(worker.models)
    return any((one["family"], one["version"], one["runtime"]) == wanted for one in loaded)


def _offer(worker: WorkerRecord) -> tuple[int, int]:
    """The most memory and GPU memory, in MiB, that the worker has for a model.

    Until it has asked for jobs, and said so, that is all there is in the machine.
    """
    if worker.offered_memory_mb or worker.offered_gpu_memory_mb:
        return worker.offered_memory_mb, worker.offered_gpu_memory_mb
    resources = json.loads(worker.resources)
    gpus = (int(gpu["total_memory_mb"]) for gpu in resources["gpus"])
    return int(resources["memory_total_mb"]), max(gpus, default=0)


def _is_wanted(job: JobRecord, worker: WorkerRecord) -> bool:
    return worker.desired_state is DesiredState.ACTIVE


def _can(worker: WorkerRecord) -> dict[str, Any]:
    can: dict[str, Any] = json.loads(worker.capabilities)
    return can


# ---------------------------------------------------------------- what is said of none that fits


def _runtime_missing(job: JobRecord, workers: Sequence[WorkerRecord]) -> WaitingFor:
    offered = sorted({name for one in workers for name in _can(one)["supported_runtimes"]})
    sentence = f"no registered worker offers the runtime {job.runtime}"
    sentence += f" (workers offer: {', '.join(offered)})"
    for worker in workers:
        why = _can(worker)["unavailable_runtimes"].get(job.runtime)
        if why:
            sentence += f"; {worker.worker_id} says: {why}"
            break
    return WaitingFor("runtime_missing", sentence)


def _type_missing(job: JobRecord, workers: Sequence[WorkerRecord]) -> WaitingFor:
    sentence = f"no registered worker takes jobs of type {job.job_type}"
    return WaitingFor("job_type_missing", sentence)


def _tag_missing(job: JobRecord, workers: Sequence[WorkerRecord]) -> WaitingFor:
    wanted = json.loads(job.tags).items()
    tags = [json.loads(worker.tags) for worker in workers]
    lacking = [pair for pair in wanted if all(told.get(pair[0]) != pair[1] for told in tags)]
    named = [f"{name}={value}" for name, value in sorted(lacking or wanted)]
    words = f"tag {named[0]}" if len(named) == 1 else f"tags {', '.join(named)}"
    together = "" if lacking else " together"
    return WaitingFor("tag_missing", f"no worker has the {words}{together}")


def _memory_missing(job: JobRecord, workers: Sequence[WorkerRecord]) -> WaitingFor:
    offers = [_offer(worker) for worker in workers]
    most_gpu, most = max(gpu for _, gpu in offers), max(memory for memory, _ in offers)
    lacking = []
    if job.min_gpu_memory_mb > most_gpu:
        lacking.append(_too_little(job.min_gpu_memory_mb, "GPU memory", most_gpu))
    if job.min_memory_mb > most:
        lacking.append(_too_little(job.min_memory_mb, "memory", most))
    if lacking:
        code: Code = "memory_missing" if job.min_memory_mb > most else "gpu_memory_missing"
        return WaitingFor(code, f"no registered worker has {', and none '.join(lacking)}")
    needs = f"{job.min_memory_mb} MiB of memory and {job.min_gpu_memory_mb} MiB of GPU memory"
    return WaitingFor("memory_missing", f"no registered worker has {needs} together")


def _too_little(needed_mb: int, kind: str, most_mb: int) -> str:
    needed, most, unit = f"{needed_mb / 1024:.3g}", f"{most_mb / 1024:.3g}", "GiB"
    if needed == most or needed_mb < 1024 or "e" in needed:
        needed, most, unit = str(needed_mb), str(most_mb), "MiB"
    largest = f"the largest has {most}" if most_mb else "none has any"
    return f"{needed} {unit} of {kind} ({largest})"


def _stopped(job: JobRecord, workers: Sequence[WorkerRecord]) -> WaitingFor:
    states = ", ".join(sorted({worker.desired_state.value for worker in workers}))
    return WaitingFor(
        "workers_stopped", f"{_those(workers)} that could run it takes no new jobs now ({states})"
    )


_DEMANDS: Sequence[
    tuple[
        Callable[[JobRecord, WorkerRecord], bool],
        Callable[[JobRecord, Sequence[WorkerRecord]], WaitingFor],
    ]
] = (
    (_offers_runtime, _runtime_missing),
    (_takes_type, _type_missing),
    (_has_tags, _tag_missing),
    (_has_room, _memory_missing),
    (_is_wanted, _stopped),
)
"""What a worker must be, one after the other, and what is said when none is."""


def _for_a_place(workers: Sequence[WorkerRecord]) -> WaitingFor:
    for worker in workers:
        if worker.status == "idle":
            words = f"a worker that can run it ({worker.worker_id}) is given it when it asks next"
            return WaitingFor("next_poll", words)
    if any(worker.status == "busy" for worker in workers):
        if len(workers) == 1:
            return WaitingFor("workers_busy", "the one worker that could run it is busy")
        return WaitingFor("workers_busy", f"all {len(workers)} workers that could run it are busy")
    states = ", ".join(sorted({worker.status for worker in workers}))
    return WaitingFor(
        "workers_not_ready", f"{_those(workers)} that could run it is not ready ({states})"
    )


def _those(workers: Sequence[WorkerRecord]) -> str:
    return "the one worker" if len(workers) == 1 else f"each of the {len(workers)} workers"
