"""The core does what the words say, in every life that hypothesis thinks of."""

from __future__ import annotations

import os

import pytest
from lease_machine import compare_with_reference

from mnemos.cortex import lease_core

EXAMPLES = int(os.environ.get("LEASE_EXAMPLES", "400"))
"""Lives of three jobs; more are looked at when this says so."""

KINDS = (
    *("Claim", "Renew", "Say", "Append", "Report", "Release"),
    *("Suspect", "Grace", "LeaseCheck", "DeadlineCheck", "WorkerGone", "Cancel", "RetryByHand"),
    *("stale Renew", "stale Say", "stale Append", "stale Report", "stale Release"),
    *("stale Cancel", "stale RetryByHand", "late Append", "late Report"),
)


@pytest.mark.timeout(120 + EXAMPLES)
def test_the_core_and_the_words_agree() -> None:
    seen = compare_with_reference(lease_core, examples=EXAMPLES)

    rare = {kind: seen[kind] for kind in KINDS if seen[kind] < 3}
    assert not rare, "the examples hardly tried these"
