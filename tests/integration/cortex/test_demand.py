"""What an autoscaler is told, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from cortex_tools import Cortex, StoreTools

from mnemos.cortex.demand import Pool, demand_for


async def test_lanes_tell_what_waits_for_how_long_and_what_it_asks_for(tools: StoreTools) -> None:
    await tools.register(slots=4)
    await tools.submit(priority=9, min_memory_mb=70)
    await tools.claim(memory_available_mb=100)
    await tools.submit(priority=9, min_memory_mb=70)
    tools.clock.turn(3)
    await tools.submit(priority=2, min_memory_mb=70, tags={"zone": "a"})
    tools.clock.turn(4)
    lanes = {lane.tags: lane for lane in (await tools.store.queue_numbers()).lanes}
    usual, tagged = lanes["{}"], lanes['{"zone": "a"}']
    assert (usual.pending, usual.running, usual.waited_seconds) == (1, 1, 7.0)
    assert (tagged.pending, tagged.waited_seconds, tagged.min_memory_mb) == (1, 4.0, 70)
    demand = demand_for(Pool(tags={}, slots=4), list(lanes.values()))
    assert (demand.workers_wanted, demand.waiting) == (1, 1)


async def test_a_job_that_was_handed_back_still_wants_a_worker(tools: StoreTools) -> None:
    await tools.register()
    job_id = await tools.hold()
    await tools.store.release("wrk_a", [tools.handed_back(job_id, 1)])
    demand = demand_for(Pool(), (await tools.store.queue_numbers()).lanes)
    assert (demand.workers_wanted, demand.oldest_waiting_seconds) == (1, 0.0)


async def test_over_http_and_in_metrics(cortex: Cortex) -> None:
    await cortex.hold()
    await cortex.submit()
    ask = "/api/v1/demand?runtime=transformers&slots=1&tag=zone%3Da"
    demand = (await cortex.http.get(ask)).json()
    assert (demand["workers_wanted"], demand["waiting"], demand["running"]) == (2, 1, 1)
    assert demand["models"][0]["family"] == "tiny"
    await cortex.submit(requirements={"tags": {"zone": "a"}})
    tagless = (await cortex.http.get("/api/v1/demand?tag=")).json()
    assert (tagless["waiting"], tagless["running"]) == (1, 1)
    other = (await cortex.http.get("/api/v1/demand?runtime=vllm")).json()
    assert (other["workers_wanted"], other["models"]) == (0, [])
    metrics = (await cortex.http.get("/metrics")).text
    kind = 'family="tiny",min_gpu_memory_mb="0",min_memory_mb="0",runtime="transformers"'
    assert f'neuron_demand_jobs{{{kind},state="waiting",version="1"}} 2.0' in metrics


async def test_what_is_no_pool_is_refused(cortex: Cortex) -> None:
    for query, field in (("tag=zone", "tag"), ("slots=0", "slots")):
        answer = await cortex.http.get(f"/api/v1/demand?{query}")
        assert answer.status_code == 422
        assert answer.json()["error"]["field"] == field


AUTOSCALE = Path(__file__).parents[3] / "examples" / "autoscale.sh"


class Fleet:
    """A command that notes how many workers it was called with."""

    def __init__(self, folder: Path, cortex_url: str) -> None:
        self._said = folder / "said"
        self._environment = {
            **os.environ,
            "MNEMOS_CORTEX_URL": cortex_url,
            "EVERY_SECONDS": "0",
            "SHRINK_SECONDS": "0",
            "MAX_WORKERS": "3",
        }

    async def scaled(self, looks: int, **settings: str) -> tuple[list[str], str]:
        """What the command was called with over some looks, and what the script complained of."""
        self._said.write_text("")
        note = f'echo "$0" >> {self._said}'
        process = await asyncio.create_subprocess_exec(
            *(AUTOSCALE, "runtime=transformers&slots=1", "bash", "-c", note),
            env={**self._environment, "ROUNDS": str(looks), **settings},
            stderr=asyncio.subprocess.PIPE,
        )
        _, complaint = await process.communicate()
        return self._said.read_text().split(), complaint.decode()


async def test_the_example_calls_a_command_with_what_is_wanted(
    cortex: Cortex, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, str(cortex.http.base_url))
    assert await fleet.scaled(2) == (["0"], "")
    await cortex.submit()
    assert await fleet.scaled(2) == (["1"], "")
    for _ in range(4):
        await cortex.submit()
    assert await fleet.scaled(1) == (["3"], "")
    said, complaint = await fleet.scaled(1, MNEMOS_CORTEX_URL="http://127.0.0.1:1")
    assert said == []
    assert "the number of workers stays" in complaint
