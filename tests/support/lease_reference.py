"""What docs/lifecycle.md says of a job's life, told once more in plain dictionaries.

Written from the words, not from the lease core, which it is compared with. There is one method for
each thing that may happen; it returns the word that its caller is told. Errors' texts are left out.
"""

from __future__ import annotations

from typing import Any

HELD = ("acquired", "loading_model", "executing", "streaming")
ENDED = ("completed", "failed", "cancelled", "timeout")


class ReferenceCortex:
    """Jobs as the words have it; `luck` (0 ≤ luck < 1) is the share of a back-off to wait."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.now = 0.0
        self.luck = 0.5

    def submit(
        self,
        job_id: str,
        *,
        max_retries: int,
        codes: tuple[str, ...],
        timeout: float,
        streams: bool,
    ) -> None:
        """A new job: pending, and nobody has tried it."""
        self.jobs[job_id] = {
            "state": "pending",
            "attempt": 0,
            "worker": None,
            "cancelling": False,
            "chunks": 0,
            "available": 0.0,
            "lease": None,
            "deadline": None,
            "retries": 0,
            "deaths": 0,
            "lost": 0,
            "code": None,
            "max_retries": max_retries,
            "codes": codes,
            "timeout": timeout,
            "streams": streams,
            "void": 0,
            "said": None,
            "tries": {},
            "log": [("pending", 0, None)],
            "kept": "nothing",
        }

    # ------------------------------------------------------------ what workers do

    def claim(self, job_id: str, worker: str, lease: float, *, void_text: bool) -> None:
        """Every claim adds one to the attempt number; a lease begins, and the timeout."""
        job = self.jobs[job_id]
        job["attempt"] += 1
        job["worker"] = worker
        job["lease"] = self.now + lease
        job["deadline"] = self.now + job["timeout"]
        job["chunks"] = 0
        job["said"] = None
        job["tries"][job["attempt"]] = {"worker": worker, "end": None, "told": False}
        if void_text:
            job["log"].append(("restart", job["attempt"]))
        self._enter(job, "acquired")

    def renew(self, job_id: str, worker: str, attempt: int, lease: float) -> str:
        """The lease is whole again."""
        job = self.jobs[job_id]
        if not self._is_present(job, worker, attempt):
            return "stale"
        job["lease"] = self.now + lease
        return self._go_on(job)

    def say(self, job_id: str, worker: str, attempt: int, state: str, message: str) -> str:
        """The worker says where it is; steps may be left out, none is gone back."""
        job = self.jobs[job_id]
        if not self._is_present(job, worker, attempt):
            return "stale"
        word = self._go_on(job)
        here, there = HELD.index(job["state"]), HELD.index(state)
        same_again = here == there and (not message or message == job["said"])
        if there < here or same_again:
            return "duplicate" if word == "accepted" else word
        job["said"] = message or None
        self._enter(job, state)
        return word

    def append(self, job_id: str, worker: str, attempt: int, numbers: list[int]) -> str:
        """Chunks count in their order, each once, from who holds the job, or lost it just now."""
        job = self.jobs[job_id]
        held = self._is_present(job, worker, attempt)
        if not held and not self._may_be_late(job, worker, attempt):
            return "stale"
        for number in numbers:
            if number != job["chunks"]:
                continue
            if held and number == 0 and job["streams"] and job["state"] != "streaming":
                job["said"] = None
                self._enter(job, "streaming")
            job["chunks"] += 1
        return self._go_on(job)

    def report(
        self,
        job_id: str,
        worker: str,
        attempt: int,
        ending: str,
        *,
        code: str,
        retryable: bool,
        together: int,
    ) -> str:
        """An attempt's end; `together` jobs ran in the engine that died, 0 when not told."""
        job = self.jobs[job_id]
        if not self._is_present(job, worker, attempt):
            return self._report_late(job, worker, attempt, ending)
        if job["cancelling"] or ending == "cancelled":
            self._close_attempt(job, "cancelled", told=True)
            self._finish(job, "cancelled", "cancelled")
            job["kept"] = "nothing" if ending == "completed" else "partial"
        elif ending == "completed":
            self._complete(job)
        elif ending == "timeout":
            self._fail(job, "timeout", "timeout", retryable=retryable, told=True)
        else:
            self._fail(job, "failed", code, retryable=retryable, told=True, together=together)
        return "accepted"

    def release(self, job_id: str, worker: str, attempt: int) -> str:
        """Handed back: pending at once, and it costs no retry."""
        job = self.jobs[job_id]
        if not self._is_present(job, worker, attempt):
            return "stale"
        self._close_attempt(job, "released")
        if job["cancelling"]:
            self._finish(job, "cancelled", "cancelled")
            return "cancelled"
        self._queue(job, self.now)
        return "accepted"

    # ------------------------------------------------------------ what CORTEX does by itself

    def look_at_lease(self, job_id: str) -> None:
        """Once the lease has run out, the worker is lost."""
        job = self.jobs[job_id]
        if job["state"] in HELD and job["lease"] <= self.now:
            self._fail(job, "lost", "worker_lost")

    def look_at_deadline(self, job_id: str, grace: float) -> None:
        """The job's own timeout, should its worker not have told for `grace` seconds."""
        job = self.jobs[job_id]
        if job["state"] in HELD and job["deadline"] + grace <= self.now:
            self._fail(job, "timeout", "timeout")

    def lose_worker(self, job_id: str) -> None:
        """The worker is known to be gone."""
        job = self.jobs[job_id]
        if job["state"] in HELD:
            self._fail(job, "lost", "worker_lost")

    def suspect(self, job_id: str, seconds: float) -> None:
        """The worker may be gone: its lease is no longer than this."""
        job = self.jobs[job_id]
        if job["state"] in HELD:
            job["lease"] = min(job["lease"], self.now + seconds)

    def restart(self, lease: float) -> None:
        """After a restart no lease runs out before one whole lease has passed."""
        for job in self.jobs.values():
            if job["state"] in HELD:
                job["lease"] = self.now + lease
                job["deadline"] = max(job["deadline"], self.now + lease)

    # ------------------------------------------------------------ what people do

    def cancel(self, job_id: str) -> str:
        """At once when nobody holds the job, else through its worker; never when it has ended."""
        job = self.jobs[job_id]
        if job["state"] == "cancelled" or job["cancelling"]:
            return "duplicate"
        if job["state"] in ENDED:
            return "stale"
        if job["state"] in HELD:
            job["cancelling"] = True
        else:
            self._finish(job, "cancelled", "cancelled")
        return "accepted"

    def retry_by_hand(self, job_id: str) -> str:
        """Retries, deaths and losses, tokens count anew; earlier attempts count no more."""
        job = self.jobs[job_id]
        if job["state"] not in ("failed", "cancelled", "timeout"):
            return "stale"
        job["retries"] = 0
        job["deaths"] = 0
        job["lost"] = 0
        job["void"] = job["attempt"]
        job["kept"] = "nothing"
        self._queue(job, self.now)
        return "accepted"

    # ------------------------------------------------------------ what that means

    def _is_present(self, job: dict[str, Any], worker: str, attempt: int) -> bool:
        return job["state"] in HELD and (job["worker"], job["attempt"]) == (worker, attempt)

    def _may_be_late(self, job: dict[str, Any], worker: str, attempt: int) -> bool:
        """The lease ran out, and nobody has begun the job since, nor anybody made it void."""
        if job["state"] != "pending" or attempt != job["attempt"] or attempt <= job["void"]:
            return False
        past = job["tries"].get(attempt)
        return past is not None and past["end"] == "lost" and past["worker"] == worker

    def _report_late(self, job: dict[str, Any], worker: str, attempt: int, ending: str) -> str:
        past = job["tries"].get(attempt)
        if past is not None and past["told"] and past["worker"] == worker:
            return "duplicate"
        if ending == "completed" and self._may_be_late(job, worker, attempt):
            job["worker"] = worker
            self._complete(job)
            return "accepted"
        return "stale"

    def _go_on(self, job: dict[str, Any]) -> str:
        return "cancelled" if job["cancelling"] else "accepted"

    def _complete(self, job: dict[str, Any]) -> None:
        self._close_attempt(job, "completed", told=True)
        self._finish(job, "completed", None)
        job["kept"] = "whole"

    def _fail(
        self,
        job: dict[str, Any],
        end: str,
        code: str,
        *,
        retryable: bool = True,
        told: bool = False,
        together: int = 0,
    ) -> None:
        self._close_attempt(job, end, told=told)
        if job["cancelling"]:
            self._finish(job, "cancelled", "cancelled")
            return
        if end == "lost":
            job["lost"] += 1
            if job["max_retries"] == 0 or job["lost"] == 3:
                self._finish(job, "failed", code)
            else:
                self._queue(job, self.now + self._back_off(job, job["lost"] - 1))
            return
        if code == "engine_crashed":
            job["deaths"] += 1
            if together == 1 and job["deaths"] >= 2:
                self._finish(job, "failed", code)
                return
        may = self._may_be_retried(job, code, retryable)
        with_others = code == "engine_crashed" and together > 1 and job["deaths"] <= 2
        if with_others and may and job["max_retries"] > 0:
            self._queue(job, self.now + self._back_off(job, 0))
            return
        if may and job["retries"] < job["max_retries"]:
            wait = self._back_off(job, job["retries"])
            job["retries"] += 1
            self._queue(job, self.now + wait)
            return
        self._finish(job, "timeout" if code == "timeout" else "failed", code)
        if code == "timeout" and told:
            job["kept"] = "partial"

    def _may_be_retried(self, job: dict[str, Any], code: str, retryable: bool) -> bool:
        if job["codes"]:
            return code in job["codes"]
        return retryable and code != "timeout"

    def _back_off(self, job: dict[str, Any], retries: int) -> float:
        """Up to 1 s x 2^n, at most 300 s."""
        return float(min(300.0, 1.0 * 2**retries) * self.luck)

    def _enter(self, job: dict[str, Any], state: str) -> None:
        job["state"] = state
        job["log"].append((state, job["attempt"], job["worker"]))

    def _close_attempt(self, job: dict[str, Any], end: str, *, told: bool = False) -> None:
        job["tries"][job["attempt"]].update(end=end, told=told)

    def _queue(self, job: dict[str, Any], available: float) -> None:
        job.update(worker=None, cancelling=False, lease=None, deadline=None, code=None)
        job["available"] = available
        self._enter(job, "pending")

    def _finish(self, job: dict[str, Any], state: str, code: str | None) -> None:
        job.update(lease=None, deadline=None, code=code)
        self._enter(job, state)
