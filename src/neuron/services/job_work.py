"""What an attempt does between its lease and its outcome: prepare, borrow an engine, follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from opentelemetry import trace

from ..clients.cortex_client import OFFERED_JOB_TYPES
from ..errors import EngineCrashedError, RuntimeUnavailableError
from ..models.job import (
    JobInput,
    JobOutput,
    JobStatus,
    JobType,
    LeasedJob,
    ResumeState,
    RowResult,
)
from ..models.lease import ref_of
from ..models.runtime import RuntimeType
from ..models.sampling import SamplingParameters
from ..runtimes.base import Generation
from ..runtimes.registry import parse_runtime
from ..utils.metrics import WorkerMetrics
from ..utils.tracing import span_around
from .drain_plan import SpeedMeter, TextProgress
from .engine import Engine, EngineKey, ModelSource
from .input_references import InputReferences
from .lease_keeper import LeaseKeeper
from .load_progress import LoadProgress, OnProgress
from .result_reporter import ResultReporter
from .rows.running import RowsRun
from .status_reporter import StatusReporter
from .token_streamer import TokenStream, TokenStreamer

logger = structlog.get_logger(__name__)

ALONE_AFTER_CRASHES = 2
"""A job under which that many engines died gets the next one for itself."""
ROW_JOBS = frozenset({JobType.BATCH_INFERENCE, JobType.EVALUATION})
CHECKPOINT_SECONDS = 2.0
"""How often the tokens of an answer that nobody reads along are kept in CORTEX."""
_VLLM_SEQUENCES = 256
_NOTHING: AbstractAsyncContextManager[None] = nullcontext()


class Engines(Protocol):
    """Who lends engines."""

    def is_warm(self, key: EngineKey) -> bool: ...

    def digest_of(self, key: EngineKey) -> str | None: ...

    def use(
        self, key: EngineKey, on_progress: OnProgress, *, alone: bool = False
    ) -> AbstractAsyncContextManager[Engine]: ...


@dataclass(frozen=True, slots=True)
class JobServices:
    """What every attempt needs of the worker."""

    worker_id: Callable[[], str]
    leases: LeaseKeeper
    engines: Engines
    statuses: StatusReporter
    tokens: TokenStreamer
    results: ResultReporter
    unavailable_runtimes: dict[RuntimeType, str]
    metrics: WorkerMetrics
    models: ModelSource
    references: InputReferences
    max_batch_size: int


@dataclass(slots=True)
class _SoFar:
    """What a text answer has got to, earlier attempts included; the unsent is this one's."""

    text: list[str] = field(default_factory=list)
    tokens: int = 0
    unsent_text: list[str] = field(default_factory=list)
    unsent_ids: list[int] = field(default_factory=list)
    speed: SpeedMeter = field(default_factory=SpeedMeter)

    @classmethod
    def after(cls, resume: ResumeState | None) -> _SoFar:
        if resume is None:
            return cls()
        return cls([resume.text], len(resume.token_ids))

    def add(self, generation: Generation, now: float) -> None:
        self.text.append(generation.text)
        self.tokens += len(generation.token_ids)
        if generation.text:
            self.unsent_text.append(generation.text)
        self.unsent_ids += generation.token_ids
        if generation.token_ids:
            self.speed.note(self.tokens, now)

    def take_unsent(self) -> tuple[str, list[int]]:
        taken = "".join(self.unsent_text), self.unsent_ids
        self.unsent_text, self.unsent_ids = [], []
        return taken

    def output(self, reason: str) -> JobOutput | None:
        if not self.tokens:
            return None
        return JobOutput(
            result="".join(self.text),
            metadata={"finish_reason": reason, "tokens_generated": self.tokens},
        )


class JobWork:
    """The work of one attempt; to be run once.

    Cancelling run() stops the engine's part at once; `partial` tells what there was until then,
    and `send_unsent` has the tokens of it outlive the attempt.
    """

    def __init__(self, leased: LeasedJob, services: JobServices) -> None:
        self.stream: TokenStream | None = None
        """Tokens and rows on their way to CORTEX; whoever delivers the outcome finishes it."""
        self.load_ms = 0.0
        self.digests: dict[str, Any] = {}
        """What of its result's metadata names the files that brought it forth."""
        self._leased = leased
        self._ref = ref_of(leased)
        self._services = services
        self._clock = asyncio.get_running_loop().time
        self._so_far = _SoFar.after(self._text_so_far)
        self._streamed = False
        self._keeps_tokens = False
        self._checkpoint_at = 0.0
        self._rows: RowsRun | None = None

    def _engine_key(self) -> EngineKey:
        job = self._leased.job
        if job.job_type not in OFFERED_JOB_TYPES:
            raise RuntimeUnavailableError(f"this worker runs no {job.job_type.value} jobs")
        runtime = parse_runtime(job.model.runtime)
        if reason := self._services.unavailable_runtimes.get(runtime):
            raise RuntimeUnavailableError(reason)
        adapted = runtime is RuntimeType.VLLM and self._adapters
        return EngineKey.of(job.model, runtime, {"enable_lora": True} if adapted else None)

    @property
    def _adapters(self) -> list[str]:
        """The adapters that the job or its rows name."""
        job_input = self._leased.job.input
        if not job_input.parameters and not job_input.inputs:
            return []
        rows = (row.get("parameters") for row in job_input.inputs or () if isinstance(row, dict))
        asked = (job_input.parameters, *(each for each in rows if isinstance(each, dict)))
        named = (parameters.get("adapter") for parameters in asked)
        return sorted({name for name in named if isinstance(name, str) and ":" in name})

    async def run(self) -> JobOutput:
        """Do it; raises the NeuronError that it failed of."""
        with span_around("execute_job") as span:
            span.set_attribute("job.id", self._leased.job.job_id)
            return await self._run()

    async def _run(self) -> JobOutput:
        job = self._leased.job
        key = self._engine_key()
        waited_from = self._clock()
        if not self._services.engines.is_warm(key):
            self._tell(JobStatus.LOADING_MODEL, "waiting for the model")
        job_input = await self._services.references.resolve(job.input)
        alone = self._leased.engine_crashes >= ALONE_AFTER_CRASHES
        engines = self._services.engines
        async with (
            self._holding(self._adapters),
            engines.use(key, self._tell_progress, alone=alone) as engine,
        ):
            self.load_ms = 1000 * (self._clock() - waited_from)
            self._note_digest(key)
            self._tell(JobStatus.EXECUTING)
            logger.debug(
                "executing_job",
                job_id=job.job_id,
                model=f"{job.model.family}/{job.model.version}",
                runtime=key.runtime.value,
            )
            if job.job_type in ROW_JOBS:
                return await self._run_rows(engine, key, job_input)
            async with aclosing(engine.generate(job_input, self._text_so_far)) as generations:
                return await self._follow(generations, job_input.sampling)

    def _holding(self, adapters: list[str]) -> AbstractAsyncContextManager[None]:
        """Have the files of adapters here for the length of a block."""
        return self._hold_adapters(adapters) if adapters else _NOTHING

    @asynccontextmanager
    async def _hold_adapters(self, adapters: list[str]) -> AsyncIterator[None]:
        digests = {}
        async with AsyncExitStack() as held:
            for adapter in adapters:
                family, _, version = adapter.partition(":")
                model = await held.enter_async_context(
                    self._services.models.using(family, version, self._tell_progress)
                )
                digests[adapter] = model.digest
            self.digests["adapter_digests"] = digests
            yield

    def _note_digest(self, key: EngineKey) -> None:
        if digest := self._services.engines.digest_of(key):
            self.digests["model_digest"] = digest
            trace.get_current_span().set_attribute("model.digest", digest)

    @property
    def _text_so_far(self) -> ResumeState | None:
        resume = self._leased.resume
        return resume if resume is not None and resume.token_ids else None

    async def _run_rows(self, engine: Engine, key: EngineKey, job_input: JobInput) -> JobOutput:
        at_once = self._services.max_batch_size
        if key.runtime is RuntimeType.VLLM:
            at_once = int(key.config.get("max_num_seqs", _VLLM_SEQUENCES))
        done = self._leased.resume.rows if self._leased.resume is not None else []
        job = self._leased.job.model_copy(update={"input": job_input})
        self._rows = RowsRun(job, done, engine.generate, self._on_row, at_once)
        return await self._rows.run()

    async def _on_row(self, row: RowResult) -> None:
        if self.stream is None:
            self.stream = self._services.tokens.open(self._ref)
        assert self._rows is not None
        self._tell(JobStatus.STREAMING, f"{self._rows.done_count} of {self._rows.total} rows")
        await self.stream.send_row(row)

    async def _follow(
        self, generations: AsyncIterator[Generation], asked: SamplingParameters
    ) -> JobOutput:
        self._streamed = asked.stream
        self._keeps_tokens = asked.stream or not asked.is_guided  # a guide cannot be taken up
        self._checkpoint_at = self._clock() + CHECKPOINT_SECONDS
        async for generation in generations:
            self._so_far.add(generation, self._clock())
            if self._streamed or self._is_checkpoint_due():
                await self.send_unsent()
            if generation.output is not None:
                return generation.output
        raise EngineCrashedError("the engine ended a generation without an output")

    def _is_checkpoint_due(self) -> bool:
        """Whether it is time to keep the tokens of an answer that nobody reads along."""
        now = self._clock()
        if now < self._checkpoint_at or not self._so_far.unsent_ids:
            return False
        self._checkpoint_at = now + CHECKPOINT_SECONDS
        return True

    @property
    def progress(self) -> TextProgress | None:
        """How far one text has got; None for rows, for many answers and for given ones."""
        sampling = self._leased.job.input.sampling
        if self._rows is not None or sampling.n > 1 or sampling.target is not None:
            return None
        return TextProgress(
            tokens=self._so_far.tokens,
            max_tokens=sampling.max_tokens,
            tokens_per_second=self._so_far.speed.tokens_per_second,
        )

    def partial(self, reason: str) -> JobOutput | None:
        """What the attempt had got to when it was stopped."""
        if self._rows is not None:
            return self._rows.partial()
        return self._so_far.output(reason)

    @property
    def is_begun_in_cortex(self) -> bool:
        """Whether CORTEX has some of the answer's tokens, of this attempt or of an earlier one."""
        return self.stream is not None or self._text_so_far is not None

    async def send_unsent(self) -> None:
        """Send CORTEX the text and tokens that it was not sent yet; waits as TokenStream.send."""
        text, token_ids = self._so_far.take_unsent()
        if not self._keeps_tokens or not (text or token_ids):
            return
        if self.stream is None:
            self.stream = self._services.tokens.open(self._ref)
            if self._streamed:
                self._tell(JobStatus.STREAMING)
        await self.stream.send(text, token_ids)

    def _tell_progress(self, progress: LoadProgress) -> None:
        self._services.statuses.update(
            self._ref,
            JobStatus.LOADING_MODEL,
            progress.message,
            (progress.bytes_done, progress.bytes_total),
        )

    def _tell(self, status: JobStatus, message: str = "") -> None:
        self._services.statuses.update(self._ref, status, message)
