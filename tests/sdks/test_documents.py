"""schemathesis asks for everything that the OpenAPI documents name, rightly and wrongly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sdk_platform import Platform

HERE = Path(__file__).parent
LONG = os.environ.get("SDKS") == "all"
EXAMPLES = 100 if LONG else 5
"""For each operation, besides what its document's limits suggest."""
SECONDS = 1200 if LONG else 60


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("document", ["/v1", "cortex", "genome"])
def test_the_service_is_as_its_document_says(document: str, platform: Platform) -> None:
    stack = platform.stack
    url = {"/v1": platform.url, "cortex": stack.cortex_url, "genome": stack.genome_url}[document]
    schemathesis = Path(os.environ["SDKS_PYTHON"]).with_name("schemathesis")
    told = platform.run(
        schemathesis, f"--config-file={HERE / 'schemathesis.toml'}",
        "run", f"{url}/openapi.json", f"--url={url}", "--no-color",
        "--generation-deterministic", f"--max-examples={EXAMPLES}",
        f"--phases=examples,coverage,fuzzing{',stateful' if LONG else ''}",
        seconds=SECONDS,
    )  # fmt: skip
    assert "generated" in told
    assert " 0 passed" not in told
