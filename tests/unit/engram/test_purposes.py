"""What a folder is for, by what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mnemos.engram.errors import ArtifactRefusedError
from mnemos.engram.purposes import find_purpose


def write(folder: Path, **files: Any) -> list[str]:
    """Write JSON files, their names' dots as two underscores; return all the names."""
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("architecture", "capabilities"),
    [
        ("LlamaForCausalLM", ()),
        ("GPT2LMHeadModel", ()),
        ("BertForSequenceClassification", ("classify",)),
        ("BertModel", ("embed",)),
        ("", ()),
    ],
)
def test_an_architecture_tells_what_a_model_does(
    tmp_path: Path, architecture: str, capabilities: tuple[str, ...]
) -> None:
    names = write(tmp_path, config__json={"architectures": [architecture]})
    assert find_purpose(tmp_path, names).capabilities == capabilities


def test_a_folder_of_sentence_transformers_embeds(tmp_path: Path) -> None:
    names = write(tmp_path, config__json={}, modules__json="[]")
    assert find_purpose(tmp_path, names).capabilities == ("embed",)


def test_an_adapter_names_its_model(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    names = write(tmp_path, adapter_config__json=config, adapter_model__safetensors="")
    purpose = find_purpose(tmp_path, names)
    assert (purpose.capabilities, purpose.metadata) == (("lora",), {"base_model": "org/base"})


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"adapter_config__json": {}}, "no adapter_model.safetensors"),
        ({"adapter_config__json": {"peft_type": "IA3"}}, "kind IA3"),
        ({"adapter_config__json": "{"}, "adapter_config.json cannot be read"),
        ({"config__json": "[]"}, "config.json is not a JSON object"),
        ({"a__gguf": "", "b__gguf": ""}, "2 GGUF files"),
    ],
)
def test_what_nothing_could_load_is_refused(
    tmp_path: Path, files: dict[str, Any], words: str
) -> None:
    with pytest.raises(ArtifactRefusedError, match=words):
        find_purpose(tmp_path, write(tmp_path, **files))


def test_the_config_of_a_custom_model_is_its_own_affair(tmp_path: Path) -> None:
    names = write(tmp_path, config__json="[]", signature__json={})
    assert find_purpose(tmp_path, names).capabilities == ()


def test_one_gguf_file_is_a_model(tmp_path: Path) -> None:
    assert find_purpose(tmp_path, write(tmp_path, a__gguf="")).capabilities == ()
