from __future__ import annotations

from mnemos.cortex.demand import Pool, demand_for
from mnemos.cortex.numbers import LaneCount
from mnemos.cortex.records import ModelKey


def lane(
    model: str = "small", *, pending: int = 0, running: int = 0, **changes: object
) -> LaneCount:
    fields: dict[str, object] = {
        "model": ModelKey(model, "1", "vllm"),
        "priority": 5,
        "job_type": "inference",
        "min_memory_mb": 100,
        "min_gpu_memory_mb": 8000,
        "tags": "{}",
        "waited_seconds": None,
    }
    return LaneCount(pending=pending, running=running, **{**fields, **changes})  # type: ignore[arg-type]  # by name


def test_workers_for_what_waits_and_what_runs() -> None:
    lanes = [lane(pending=9, running=2), lane(priority=7, pending=1, waited_seconds=4.0)]
    demand = demand_for(Pool(slots=4), lanes)
    assert (demand.workers_wanted, demand.waiting, demand.running) == (3, 10, 2)
    assert demand.oldest_waiting_seconds == 4.0


def test_an_empty_queue_wants_nobody() -> None:
    demand = demand_for(Pool(), [])
    assert (demand.workers_wanted, demand.oldest_waiting_seconds, demand.models) == (0, 0.0, [])


def test_what_the_pool_cannot_run_is_not_its_to_scale_for() -> None:
    lanes = [
        lane("fits", pending=1),
        lane("too big", pending=1, min_gpu_memory_mb=40_000),
        lane("elsewhere", pending=1, tags='{"region": "eu"}'),
        lane("trains", pending=1, job_type="training"),
        LaneCount(ModelKey("other", "1", "pytorch"), 5, 1, 0, "inference", 0, 0, "{}", None),
    ]
    pool = Pool(frozenset({"vllm"}), None, 4000, 24_000, {"region": "us"})
    assert [one.model.family for one in demand_for(pool, lanes).models] == ["fits"]


def test_an_undescribed_pool_runs_every_model() -> None:
    lanes = [lane("far", pending=1, tags='{"region": "eu"}', min_gpu_memory_mb=80_000)]
    assert demand_for(Pool(), lanes).workers_wanted == 1


def test_models_are_summed_over_priorities_the_most_wanted_first() -> None:
    lanes = [
        lane("quiet", pending=1),
        lane("loud", pending=2, min_gpu_memory_mb=1),
        lane("loud", pending=2, priority=3),
    ]
    loud, quiet = demand_for(Pool(), lanes).models
    assert (loud.model.family, loud.waiting, loud.min_gpu_memory_mb) == ("loud", 4, 8000)
    assert (quiet.model.family, quiet.waiting) == ("quiet", 1)
