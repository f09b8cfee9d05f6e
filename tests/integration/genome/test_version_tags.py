"""Names such as `prod` that point to versions, in both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import pytest_asyncio

from mnemos.genome.client import GenomeClient
from mnemos.genome.errors import (
    GenomeError,
    InvalidModelError,
    ModelConflictError,
    ModelNotFoundError,
    TagNotFoundError,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MakeBody = Callable[..., dict[str, Any]]


@pytest_asyncio.fixture(loop_scope="module")
async def genome(genome: GenomeClient, make_body: MakeBody) -> GenomeClient:
    """GENOME with tiny:1.0 and, registered later, tiny:2.0."""
    for version in ("1.0", "2.0"):
        await genome.register(make_body(version=version))
    return genome


async def pointers(genome: GenomeClient, family: str = "tiny") -> dict[str, tuple[str, bool]]:
    tags = (await genome.tags(family)).tags
    return {tag.tag: (tag.version, tag.pinned) for tag in tags}


async def test_a_tag_is_set_moved_and_removed(genome: GenomeClient) -> None:
    assert await pointers(genome) == {"latest": ("2.0", False)}
    first = await genome.set_tag("tiny", "prod", "1.0")
    assert (first.family, first.tag, first.version, first.pinned) == ("tiny", "prod", "1.0", True)
    assert await genome.set_tag("tiny", "prod", "1.0") == first, "nothing has changed"
    moved = await genome.set_tag("tiny", "prod", "2.0")
    assert moved.updated_at > first.updated_at
    assert await pointers(genome) == {"latest": ("2.0", False), "prod": ("2.0", True)}
    await genome.remove_tag("tiny", "prod")
    assert await pointers(genome) == {"latest": ("2.0", False)}
    with pytest.raises(TagNotFoundError, match="no version tag prod; it has latest"):
        await genome.remove_tag("tiny", "prod")


async def test_a_tag_is_followed_and_the_answer_says_so(genome: GenomeClient) -> None:
    await genome.set_tag("tiny", "prod", "1.0")
    for asked, version, tag in (
        ("prod", "1.0", "prod"), ("2.0", "2.0", None), ("latest", "2.0", "latest"),
        (None, "2.0", "latest"),
    ):  # fmt: skip
        model = await genome.get("tiny", asked)
        assert (model.version, model.asked_tag) == (version, tag)
    with pytest.raises(ModelNotFoundError, match=r"tiny has no version staging; it has 2\.0, 1\.0"):
        await genome.get("tiny", "staging")


async def test_latest_is_the_newest_until_it_is_pinned(
    genome: GenomeClient, make_body: MakeBody
) -> None:
    await genome.register(make_body(version="0.1"))
    assert (await genome.get("tiny")).version == "0.1", "the newest, not the highest"
    await genome.set_tag("tiny", "latest", "1.0")
    await genome.register(make_body(version="3.0"))
    assert (await genome.get("tiny")).version == "1.0"
    assert await pointers(genome) == {"latest": ("1.0", True)}
    await genome.remove_tag("tiny", "latest")
    assert (await genome.get("tiny")).version == "3.0"
    with pytest.raises(TagNotFoundError, match="not pinned"):
        await genome.remove_tag("tiny", "latest")


async def test_a_name_is_a_version_or_a_tag(genome: GenomeClient, make_body: MakeBody) -> None:
    with pytest.raises(ModelConflictError, match=r"1\.0 is a version of tiny"):
        await genome.set_tag("tiny", "1.0", "2.0")
    await genome.set_tag("tiny", "prod", "1.0")
    with pytest.raises(ModelConflictError, match="prod is a version tag of tiny") as refused:
        await genome.register(make_body(version="prod"), replace=True)
    assert refused.value.field == "version"
    await genome.register(make_body("other", "prod"))  # each family has names of its own
    with pytest.raises(InvalidModelError, match=r"prod is a version tag of tiny; .*, 1\.0\."):
        await genome.set_tag("tiny", "staging", "prod")
    with pytest.raises(ModelNotFoundError):
        await genome.set_tag("tiny", "staging", "9")
    with pytest.raises(ModelNotFoundError):
        await genome.set_tag("big", "prod", "1.0")
    with pytest.raises(ModelNotFoundError):
        await genome.tags("big")


async def test_of_a_version_and_a_tag_of_one_name_that_come_at_once_one_is_refused(
    genome: GenomeClient, make_body: MakeBody
) -> None:
    async def register(name: str) -> bool:
        try:
            await genome.register(make_body(version=name))
        except GenomeError:
            return False
        return True

    async def tag(name: str) -> bool:
        try:
            await genome.set_tag("tiny", name, "1.0")
        except GenomeError:
            return False
        return True

    names = [f"n{number}" for number in range(8)]
    async with asyncio.TaskGroup() as group:
        calls = [
            (group.create_task(register(name)), group.create_task(tag(name))) for name in names
        ]
    assert [version.result() + tag.result() for version, tag in calls] == [1] * len(names)


async def test_changes_name_the_version_itself(genome: GenomeClient) -> None:
    await genome.set_tag("tiny", "prod", "1.0")
    for call in (
        genome.update("tiny", "prod", {"description": "x"}),
        genome.delete("tiny", "prod", force=True),
    ):
        with pytest.raises(InvalidModelError, match=r"name the version .* 1\.0\.") as refused:
            await call
        assert refused.value.field == "version"


async def test_a_version_that_is_pointed_to_goes_only_by_force(genome: GenomeClient) -> None:
    await genome.set_tag("tiny", "prod", "1.0")
    with pytest.raises(ModelConflictError, match=r"version tag points to tiny:1\.0: prod"):
        await genome.delete("tiny", "1.0")
    await genome.set_tag("tiny", "blue", "1.0")
    with pytest.raises(ModelConflictError, match=r"tags point to .*: blue, prod; let them"):
        await genome.delete("tiny", "1.0")
    await genome.delete("tiny", "1.0", force=True)
    assert await pointers(genome) == {"latest": ("2.0", False)}
    await genome.delete("tiny", "2.0")  # `latest` only follows


async def test_tags_survive_a_replacement_and_show_in_listings(
    genome: GenomeClient, make_body: MakeBody
) -> None:
    await genome.set_tag("tiny", "prod", "1.0")
    await genome.set_tag("tiny", "blue", "1.0")
    await genome.register(make_body(version="1.0", description="new"), replace=True)
    listed = {model.version: model.version_tags for model in (await genome.list()).models}
    assert listed == {"1.0": ["blue", "prod"], "2.0": []}
    versions = (await genome.versions("tiny")).versions
    assert {each.version: each.version_tags for each in versions} == listed
    tagged = await genome.list(version_tag="prod")
    assert [model.version for model in tagged.models] == ["1.0"]
