"""LoRA adapters beside their base model, and those that are refused."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asking import collect, collect_all, job
from tiny_lora import build_tiny_lora

from neuron.errors import ArtifactCorruptError, InvalidInputError, NeuronError
from neuron.models.job import ResumeState
from neuron.runtimes.engine_client import EngineClient

pytestmark = pytest.mark.asyncio(loop_scope="session")

Greedy = Callable[[str | None], list[int]]
ADAPTERS = (None, "lora:1", "lora:2", "lora:3")


@pytest.fixture(scope="session")
def reference(cache: Path) -> Greedy:
    """Greedy tokens of transformers, an adapter's weights added to the base's."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = cache / "tiny" / "1"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)

    def generate(adapter: str | None) -> list[int]:
        model = AutoModelForCausalLM.from_pretrained(folder)
        if adapter is not None:
            tensors = load_file(cache / adapter.replace(":", "/") / "adapter_model.safetensors")
            for key in (key for key in tensors if ".lora_A." in key):
                module = model.get_submodule(key.split("base_model.model.")[1].split(".lora_A")[0])
                module.weight.data += 2 * tensors[key.replace("lora_A", "lora_B")] @ tensors[key]
        answer = model.generate(
            input_ids=inputs["input_ids"], max_new_tokens=24, do_sample=False, eos_token_id=None
        )
        return [int(token) for token in answer[0, inputs["input_ids"].shape[1] :]]

    return generate


def asked(adapter: str | None, **parameters: Any) -> Any:
    named = {} if adapter is None else {"adapter": adapter}
    return job("Hello", ignore_eos=True, **named, **parameters)


async def test_each_request_has_its_own_adapter_and_the_base_stays_what_it_is(
    adaptable: EngineClient, reference: Greedy
) -> None:
    expected = [reference(adapter) for adapter in ADAPTERS]
    assert len({tuple(tokens) for tokens in expected}) == len(ADAPTERS)
    alone = [await collect(adaptable, asked(adapter)) for adapter in ADAPTERS]
    # Twelve at once, with three adapters where two have room.
    together = await collect_all(adaptable, [asked(adapter) for adapter in ADAPTERS * 3])
    assert [tokens for _, tokens, _ in alone] == expected
    assert [tokens for _, tokens, _ in together] == expected * 3
    named = [output.metadata.get("adapter") for _, _, output in together]
    assert named == list(ADAPTERS) * 3


async def test_scores_choices_and_resumed_answers_are_the_adapters(
    adaptable: EngineClient,
) -> None:
    one = asked("lora:1", logprobs=1)
    text, tokens, whole = await collect(adaptable, one)
    _, new, again = await collect(adaptable, one, ResumeState(token_ids=tokens[:9], text=""))
    assert tokens[:9] + new == tokens
    for entry, other in zip(again.metadata["logprobs"], whole.metadata["logprobs"], strict=True):
        assert entry["logprob"] == pytest.approx(other["logprob"], abs=2e-4)
    _, _, scored = await collect(adaptable, asked("lora:1", target="Paris", logprobs=1))
    _, _, base = await collect(adaptable, asked(None, target="Paris", logprobs=1))
    assert abs(scored.metadata["target_logprob"] - base.metadata["target_logprob"]) > 0.1
    _, _, pair = await collect(adaptable, asked("lora:1", n=2))
    assert pair.result == [text, text]
    assert pair.metadata["adapter"] == "lora:1"


async def test_targets_are_scored_beside_answers_with_and_without_adapters(
    adaptable: EngineClient,
) -> None:
    targets = [asked(adapter, target="the lazy dog") for adapter in ADAPTERS]
    alone = [(await collect(adaptable, one))[2] for one in targets]
    mixed = [one for pair in zip(targets * 4, [asked(None)] * 16, strict=True) for one in pair]

    together = [output for _, _, output in await collect_all(adaptable, mixed)]

    scores = [output.metadata["target_logprob"] for output in alone]
    assert len(set(scores)) == len(ADAPTERS)
    assert [o.metadata["target_logprob"] for o in together[::2]] == pytest.approx(scores * 4, 1e-4)


async def test_an_adapter_whose_files_changed_is_read_anew(
    adaptable: EngineClient, cache: Path
) -> None:
    before = (await collect(adaptable, asked(None)))[1]
    for seed in (7, 8):
        build_tiny_lora(cache / "lora" / "changing", seed=seed)
        now = (await collect(adaptable, asked("lora:changing")))[1]
        assert now != before
        before = now


async def test_an_engine_without_room_for_adapters_says_how_to_make_it(
    engine: EngineClient,
) -> None:
    with pytest.raises(InvalidInputError, match=r'"enable_lora": true .* runtime_config'):
        await collect(engine, asked("lora:1"))


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def cut_short(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def changed(**config: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))

    return change


@pytest.mark.parametrize(
    ("spoil", "made", "kind", "words"),
    [
        (shutil.rmtree, {}, ArtifactCorruptError, r"not complete: no adapter_config\.json"),
        (pickled, {}, InvalidInputError, "pickled weights, which are never loaded"),
        (cut_short, {}, ArtifactCorruptError, "cannot be read: adapter_model"),
        (None, {"rank": 32}, InvalidInputError, "rank 32 .* raise max_lora_rank"),
        (None, {"hidden_size": 64}, InvalidInputError, "no adapter for tiny:1: .* 64 wide"),
        (None, {"modules": ("z_proj",)}, InvalidInputError, "no module layers.0.self_attn.z_proj"),
        (changed(use_dora=True), {}, InvalidInputError, "the adapter lora:spoilt: .* DoRA"),
        (changed(r="8"), {}, InvalidInputError, "no rank"),
        (changed(r=4), {}, InvalidInputError, r"adapter_config\.json knows no rank 8"),
    ],
)
async def test_an_adapter_that_cannot_run_is_refused_and_hurts_nobody(
    adaptable: EngineClient,
    cache: Path,
    spoil: Callable[[Path], None] | None,
    made: dict[str, Any],
    kind: type[NeuronError],
    words: str,
) -> None:
    folder = cache / "lora" / "spoilt"
    shutil.rmtree(folder, ignore_errors=True)
    build_tiny_lora(folder, **made)
    if spoil is not None:
        spoil(folder)
    async with asyncio.TaskGroup() as group:
        other = group.create_task(collect(adaptable, asked("lora:2")))
        with pytest.raises(kind, match=words) as refusal:
            await collect(adaptable, asked("lora:spoilt"))
    assert "\n" not in refusal.value.message
    assert len(other.result()[1]) == 24


@pytest.mark.parametrize("name", ["..:etc", "lora:../tiny/1", "lora:/etc"])
async def test_a_name_never_leaves_the_cache(adaptable: EngineClient, name: str) -> None:
    with pytest.raises(NeuronError, match="adapter"):
        await collect(adaptable, asked(name))
