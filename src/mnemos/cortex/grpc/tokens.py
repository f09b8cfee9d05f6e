"""Who may call as a worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import grpc
import grpc.aio

from mnemos.bearer import bearer_of, hash_of, same

from ..errors import StorageUnavailableError
from ..keys.directory import KeyDirectory
from ..keys.records import ApiKey
from ..principal import WORKER, Principal

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Call: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Refusal = tuple[grpc.StatusCode, str]

MISSING = (
    grpc.StatusCode.UNAUTHENTICATED,
    "This CORTEX asks workers for a token, and none was sent.",
)
UNKNOWN = (grpc.StatusCode.UNAUTHENTICATED, "The token is not one of this CORTEX's.")


class WorkerTokens(grpc.aio.ServerInterceptor):
    """Lets calls pass that bring the token of CORTEX's settings, or a key with the scope `worker`.

    They bring it in the metadata `authorization`, as `Bearer <token>`. A call is looked at when
    it is made: streams that are open stay so.
    """

    def __init__(self, token: str | None, keys: KeyDirectory) -> None:
        self._hash = None if token is None else hash_of(token)
        self._keys = keys

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Give the call its handler, or one that refuses it."""
        refusal = await self._refusal(handler_call_details.invocation_metadata)
        handler = await continuation(handler_call_details)
        return handler if refusal is None or handler is None else _refusing(handler, refusal)

    async def _refusal(self, metadata: Iterable[tuple[str, str | bytes]]) -> Refusal | None:
        secret = _secret_in(metadata)
        if secret is None:
            return MISSING
        if self._hash is not None and same(hash_of(secret), self._hash):
            return None
        try:
            return _judge(await self._keys.find(secret))
        except StorageUnavailableError as error:
            return grpc.StatusCode.UNAVAILABLE, error.message


def _secret_in(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    for name, value in metadata:
        if name == "authorization" and isinstance(value, str):
            return bearer_of(value)
    return None


def _judge(found: ApiKey | Principal | None) -> Refusal | None:
    if found is None:
        return UNKNOWN
    if isinstance(found, Principal):
        return None
    if found.disabled_at is not None:
        return grpc.StatusCode.UNAUTHENTICATED, f"The API key {found.name} is disabled."
    if not found.principal.may(WORKER):
        return (
            grpc.StatusCode.PERMISSION_DENIED,
            f"The API key {found.name} lacks the scope worker.",
        )
    return None


def _refusing(handler: Handler, refusal: Refusal) -> Handler:
    """A handler of the same kind that refuses."""

    async def refuse(_request: Any, context: Call) -> None:
        await context.abort(*refusal)

    kind = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
    make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(refuse, handler.request_deserializer, handler.response_serializer)


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"
