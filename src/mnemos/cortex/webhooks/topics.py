"""What wakes who sends to webhooks."""

from __future__ import annotations

WEBHOOKS_TOPIC = "webhooks"
"""An endpoint is to be told something."""
