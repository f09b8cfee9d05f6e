"""MNEMOS from Python: submit jobs, stream them, map over millions of prompts.

    from mnemos import Client

    with Client() as client:
        print(client.submit("What is the capital of France?", model="smollm2").result())
        for answer in client.map(prompts, model="smollm2", run_id="capitals", progress=True):
            print(answer.item, answer.value)

`AsyncClient` is the same with `await`. Both are thin over CORTEX's HTTP API: whatever is submitted
here can be seen, cancelled and read by anybody else who may.
"""

from .asking import JobRequest, Message, Options, Question, Retry, Sampling
from .async_client import AsyncClient, AsyncJob, AsyncMapRun
from .errors import (
    AnswerRestartedError,
    ApiError,
    AuthenticationError,
    ConflictError,
    InvalidInputError,
    JobCancelledError,
    JobError,
    JobFailedError,
    JobTimedOutError,
    MnemosError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    UnreachableError,
    WaitTimeoutError,
)
from .infos import Answer, Failure, JobInfo, Progress, Status, Token, Usage
from .sync_client import Client, Job, MapRun

__all__ = [
    "Answer",
    "AnswerRestartedError",
    "ApiError",
    "AsyncClient",
    "AsyncJob",
    "AsyncMapRun",
    "AuthenticationError",
    "Client",
    "ConflictError",
    "Failure",
    "InvalidInputError",
    "Job",
    "JobCancelledError",
    "JobError",
    "JobFailedError",
    "JobInfo",
    "JobRequest",
    "JobTimedOutError",
    "MapRun",
    "Message",
    "MnemosError",
    "NotFoundError",
    "Options",
    "PermissionDeniedError",
    "Progress",
    "Question",
    "RateLimitedError",
    "Retry",
    "Sampling",
    "ServerError",
    "Status",
    "Token",
    "UnreachableError",
    "Usage",
    "WaitTimeoutError",
]
