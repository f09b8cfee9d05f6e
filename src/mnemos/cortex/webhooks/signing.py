"""Events and their signatures, as Standard Webhooks and OpenAI's clients have them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence

from pydantic import SecretStr

from .endpoints import PREFIX
from .records import Delivery


def body_of(delivery: Delivery) -> bytes:
    """The event, the same bytes in every attempt."""
    event = {
        "id": delivery.event_id,
        "object": "event",
        "type": delivery.kind,
        "created_at": int(delivery.created_at),
        "data": {"id": delivery.batch_id},
    }
    return json.dumps(event, separators=(",", ":")).encode()


def headers_of(
    event_id: str, body: bytes, secrets: Sequence[SecretStr], now: float
) -> dict[str, str]:
    """The headers of one attempt: its time is signed with it."""
    moment = str(int(now))
    signed = f"{event_id}.{moment}.".encode() + body
    signatures = (_signature(secret, signed) for secret in secrets)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": moment,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
        "content-type": "application/json",
        "user-agent": "mnemos-cortex",
    }


def _signature(secret: SecretStr, signed: bytes) -> str:
    key = base64.b64decode(secret.get_secret_value().removeprefix(PREFIX))
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode("ascii")
