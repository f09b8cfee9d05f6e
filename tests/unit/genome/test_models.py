"""The description of a model, without a server: what is taken, filled in, and refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mnemos.genome.bodies import check_description
from mnemos.genome.models import ModelSpec, ModelUpdate


def body(**changes: Any) -> dict[str, Any]:
    sound: dict[str, Any] = {
        "family": "tiny",
        "version": "1",
        "artifact": {"format": "safetensors"},
        "files": [{"path": "model.safetensors", "size": 40, "sha256": "b" * 64}],
    }
    return sound | changes


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip
FIELDS = ["family", "version", "artifact", "files", "artifact_path", "runtime", "requirements",
          "capabilities", "tags", "metadata", "input_schema", "name", "description"]  # fmt: skip


@hypothesis_settings(max_examples=150, deadline=None)
@given(field=st.sampled_from(FIELDS), value=JSON)
def test_any_value_in_any_field_is_taken_or_explained(field: str, value: object) -> None:
    report = check_description(body(**{field: value}))
    assert report.valid == (not report.errors)
    assert all(problem.message.endswith(".") for problem in report.errors)


def test_of_very_many_problems_a_hundred_are_told() -> None:
    files = [{"path": "../x", "size": -1, "sha256": "x"} for _ in range(50)]
    report = check_description(body(files=files))
    assert len(report.errors) == 101
    assert report.errors[-1].message == "There are 50 more problems."
    report = check_description({"family": "tiny"})
    assert report.errors[0].message == "version: is missing."


def test_what_is_filled_in_is_accepted_when_given() -> None:
    spec = ModelSpec.model_validate(body())
    assert ModelSpec.model_validate(spec.model_dump()) == spec
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec


def test_the_order_of_files_is_kept_and_does_not_change_the_checksum() -> None:
    files = [{"path": name, "size": 1, "sha256": "a" * 64} for name in ("b", "a")]
    there = ModelSpec.model_validate(body(files=files))
    back = ModelSpec.model_validate(body(files=files[::-1]))
    assert [file.path for file in there.files] == ["b", "a"]
    assert there.artifact.checksum == back.artifact.checksum


def test_an_artifact_path_may_differ_from_the_name() -> None:
    spec = ModelSpec.model_validate(body(artifact_path="shared/weights"))
    assert spec.artifact.path == "shared/weights"


def test_the_whole_key_of_a_file_has_a_limit() -> None:
    long = "/".join(["x" * 200] * 5)
    files = [{"path": long, "size": 1, "sha256": "a" * 64}]
    assert ModelSpec.model_validate(body(files=files)).files[0].path == long
    with pytest.raises(ValidationError, match="longer than 1024 bytes"):
        ModelSpec.model_validate(body(files=files, artifact_path="y" * 100))


def test_an_update_changes_what_it_names() -> None:
    assert ModelUpdate().changes() == {}
    assert ModelUpdate(tags=None).changes() == {}
    assert ModelUpdate(input_schema=None, signature=None).changes() == {
        "input_schema": None,
        "signature": None,
    }
    runtime = ModelUpdate.model_validate({"runtime": {"type": "vllm"}})
    assert runtime.changes() == {"runtime": {"type": "vllm", "config": {}}}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "required": ["prompt"], "properties": {"prompt": {"type": "string"}}},
        {"$defs": {"t": {"type": "string"}}, "$ref": "#/$defs/t"},
        {"properties": {"$ref": {"type": "string"}}},
    ],
)
def test_sound_schemas_pass(schema: dict[str, Any]) -> None:
    assert ModelSpec.model_validate(body(input_schema=schema)).input_schema == schema
