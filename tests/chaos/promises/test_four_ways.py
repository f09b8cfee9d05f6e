"""Two hundred prompts, greedy: streamed, whole, batched and direct texts are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import four_ways
import pytest
from figures import Figures, Scale
from openai_platform import openai_platform
from openai_tools import official_client

pytestmark = pytest.mark.timeout(1800)

GREEDY: dict[str, Any] = {"model": "chat", "temperature": 0, "max_tokens": 64}


async def test_greedy_texts_are_the_same_in_four_ways(
    tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    asked = four_ways.prompts(scale.of(200, 30))
    async with openai_platform(tmp_path) as url, official_client(url, 300) as client:
        whole = await four_ways.whole(client, asked, **GREEDY)
        streamed = await four_ways.streamed(client, asked, **GREEDY)
        batched = await four_ways.batched(client, asked, 900, **GREEDY)
    parameters = {"temperature": 0, "max_tokens": 64}
    direct = await four_ways.direct(tmp_path / "chat", asked, parameters)
    figures.note("prompts", len(asked))
    figures.note("different texts", len(set(whole)))
    for name, texts in (("streamed", streamed), ("batched", batched), ("direct", direct)):
        others = sum(one != other for one, other in zip(texts, whole, strict=True))
        figures.note(f"{name} otherwise than whole", others)
    assert streamed == batched == direct == whole
