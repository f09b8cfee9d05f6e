"""`/api/v1/webhooks`: what webhooks were told, and what has not arrived."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from mnemos.http import ApiError

from ..api.context import Cortex
from ..api.documents import errors
from ..api.views import json_response
from ..clock import as_text
from ..principal import ADMIN, principal_of
from .records import Delivery, DeliveryState

router = APIRouter(prefix="/webhooks", tags=["webhooks"])


class DeliveryView(BaseModel):
    """One event for one endpoint."""

    event_id: str
    endpoint: str
    type: str
    batch_id: str
    state: str
    attempts: int
    error: str | None
    created_at: str
    next_at: str | None
    ended_at: str | None


class DeliveryPage(BaseModel):
    """Deliveries, newest first."""

    deliveries: list[DeliveryView]


@router.get(
    "/deliveries",
    summary="List deliveries",
    response_model=DeliveryPage,
    responses=errors(422, 503),
)
async def list_deliveries(
    request: Request,
    cortex: Cortex,
    state: DeliveryState | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """What webhooks were told; with `state` waiting or given_up, what has not arrived."""
    if not principal_of(request.scope).may(ADMIN):
        raise ApiError(403, "forbidden", "Deliveries are shown to keys with the scope admin.")
    store = cortex.store.batches.deliveries
    found = await store.list_deliveries(state, limit)
    return json_response({"deliveries": [_view(delivery) for delivery in found]})


def _view(delivery: Delivery) -> dict[str, Any]:
    return {
        "event_id": delivery.event_id,
        "endpoint": delivery.endpoint,
        "type": delivery.kind,
        "batch_id": delivery.batch_id,
        "state": delivery.state.value,
        "attempts": delivery.attempts,
        "error": delivery.error,
        "created_at": as_text(delivery.created_at),
        "next_at": as_text(delivery.next_at),
        "ended_at": as_text(delivery.ended_at),
    }
