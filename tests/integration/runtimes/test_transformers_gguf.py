"""GGUF folders: found, unpacked, answered from; or refused with the reason."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from asking import collect, collect_all, job
from tiny_gguf import build_tiny_gguf

from neuron.errors import ArtifactCorruptError, InvalidInputError
from neuron.models.job import ChatMessage, JobInput
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.transformers_runtime import TransformersRuntime

Load = Callable[..., Awaitable[TransformersRuntime]]
PROMPTS = ["hi", "hello, lo and behold", "東京"]


@pytest.fixture
async def load(tmp_path: Path) -> AsyncIterator[Load]:
    loaded: list[TransformersRuntime] = []

    async def load_one(**config: Any) -> TransformersRuntime:
        runtime = TransformersRuntime(EngineSettings(model_cache_dir=tmp_path, max_batch_size=8))
        loaded.append(runtime)
        await runtime.load_model("tiny", "1", config)
        return runtime

    yield load_one
    for runtime in loaded:
        await runtime.unload_model()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tiny" / "1"


def plain(folder: Path, prompt: str, max_tokens: int) -> list[int]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="tiny.gguf")
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf", dtype=torch.float32)
    ids = torch.tensor([tokenizer.encode(prompt)])
    answer = model.generate(ids, max_new_tokens=max_tokens, do_sample=False, pad_token_id=2)
    return [int(token) for token in answer[0, ids.shape[1] :]]


def write_damaged(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "tiny.gguf").write_bytes(b"GGUF" + b"\x00" * 64)


@pytest.mark.parametrize("quantized", [False, True])
async def test_a_gguf_answers_as_the_library_does(
    folder: Path, load: Load, quantized: bool
) -> None:
    build_tiny_gguf(folder / "tiny.gguf", quantized=quantized)
    runtime = await load()
    got = await collect_all(runtime, [job(prompt, raw=True, max_tokens=16) for prompt in PROMPTS])
    for prompt, (_, tokens, output) in zip(PROMPTS, got, strict=True):
        assert tokens == plain(folder, prompt, 16)
        assert output.metadata["finish_reason"] in {"stop", "length"}


async def test_its_template_and_its_context_are_known(folder: Path, load: Load) -> None:
    build_tiny_gguf(folder / "tiny.gguf")
    runtime = await load()
    chat = JobInput(
        messages=[ChatMessage(role="user", content="hi")],
        parameters={"temperature": 0, "max_tokens": 500, "ignore_eos": True},
    )
    _, _, output = await collect(runtime, chat)
    metadata = output.metadata
    assert metadata["prompt_tokens"] > 10
    assert metadata["prompt_tokens"] + metadata["tokens_generated"] == 128


async def test_a_tokenizer_beside_the_file_is_preferred(folder: Path, load: Load) -> None:
    from transformers import AutoTokenizer

    build_tiny_gguf(folder / "tiny.gguf")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="tiny.gguf")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)
    runtime = await load()
    assert (await runtime.execute(job("hi"))).metadata["prompt_tokens"] == 1


async def test_safetensors_win_over_a_gguf_beside_them(
    folder: Path, load: Load, cache: Path
) -> None:
    import shutil

    shutil.copytree(cache / "tiny" / "1", folder)
    (folder / "other.gguf").write_bytes(b"not read")
    runtime = await load()
    assert (await runtime.execute(job("Hello"))).metadata["tokens_generated"] == 24


async def test_several_files_are_named(folder: Path, load: Load) -> None:
    for name in ("b.gguf", "a.gguf"):
        build_tiny_gguf(folder / name)
    with pytest.raises(InvalidInputError, match=r"several GGUF files \(a\.gguf, b\.gguf\)"):
        await load()


async def test_an_unknown_architecture_is_refused(folder: Path, load: Load) -> None:
    build_tiny_gguf(folder / "tiny.gguf", architecture="plamo")
    with pytest.raises(InvalidInputError, match="cannot run here: GGUF model with architecture p"):
        await load()


async def test_a_damaged_file_is_a_corrupt_artifact(folder: Path, load: Load) -> None:
    write_damaged(folder)
    with pytest.raises(ArtifactCorruptError, match="tiny:1"):
        await load()


async def test_a_gguf_only_generates(folder: Path, load: Load) -> None:
    build_tiny_gguf(folder / "tiny.gguf")
    with pytest.raises(InvalidInputError, match="only generates text"):
        await load(task="embed")
