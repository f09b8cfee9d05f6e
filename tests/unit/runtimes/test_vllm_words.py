"""What is said to vLLM, and what is made of its answers; vLLM itself is not needed here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuron.errors import (
    ArtifactCorruptError,
    EngineCrashedError,
    InsufficientResourcesError,
    InvalidInputError,
    NeuronError,
    OutOfMemoryError,
    RuntimeUnavailableError,
)
from neuron.models.runtime import VLLMConfig
from neuron.models.sampling import SamplingParameters
from neuron.runtimes.vllm_engine.arguments import (
    check_files,
    cpu_arguments,
    engine_arguments,
    pooling_task,
)
from neuron.runtimes.vllm_engine.children import ChildFailure
from neuron.runtimes.vllm_engine.failures import adapter_error, core_death, load_error
from neuron.runtimes.vllm_engine.sampling import sampling_arguments


def test_every_field_of_the_config_reaches_vllm() -> None:
    config = VLLMConfig(
        tensor_parallel_size=2,
        pipeline_parallel_size=4,
        max_model_len=77,
        gpu_memory_utilization=0.5,
        dtype="bfloat16",
        max_num_seqs=5,
        max_num_batched_tokens=99,
        trust_remote_code=True,
        quantization="fp8",
        task="classify",
        enable_lora=True,
        max_loras=7,
        max_lora_rank=64,
    )
    arguments = engine_arguments(Path("/models/a"), "a:1", config)
    assert config.model_dump(exclude={"task", "tool_parser"}).items() <= arguments.items()
    assert arguments["runner"] == "pooling"
    assert arguments["load_format"] == "safetensors"


def test_room_for_adapters_is_kept_only_where_it_is_asked_for() -> None:
    assert "enable_lora" not in engine_arguments(Path(), "a:1", VLLMConfig(max_loras=2))
    config = VLLMConfig(max_loras=2, enable_lora=True)
    on_a_cpu = cpu_arguments(config, fast_bfloat16=True, free_bytes=2**30)
    assert on_a_cpu["max_loras"] == 3  # one for requests without an adapter


def test_a_model_that_reads_does_what_it_was_loaded_for() -> None:
    embeds = ["token_embed", "embed"]
    assert pooling_task("a:1", VLLMConfig(), embeds) == "embed"
    assert pooling_task("a:1", VLLMConfig(), ["classify", "token_classify"]) == "classify"
    assert pooling_task("a:1", VLLMConfig(task="embed"), embeds) == "embed"
    with pytest.raises(InvalidInputError, match=r"a:1 cannot classify; .* embed, token_embed"):
        pooling_task("a:1", VLLMConfig(task="classify"), embeds)
    with pytest.raises(InvalidInputError, match="offers nothing"):
        pooling_task("a:1", VLLMConfig(), [])


def test_what_a_worker_says_of_an_adapter_is_cut_to_its_reason() -> None:
    raised = Exception(
        "Call to add_lora method failed: Worker failed with error 'vLLM does not yet support "
        "DoRA.', please check the stack trace above for the root cause"
    )
    error = adapter_error("lora:1#7", raised)
    assert isinstance(error, InvalidInputError)
    assert error.message == "vLLM cannot run the adapter lora:1: vLLM does not yet support DoRA."
    lacking = adapter_error("lora:1#7", Exception("CUDA out of memory."))
    assert isinstance(lacking, OutOfMemoryError)


def test_a_core_that_died_while_it_was_tried_out_is_told_by_its_cause() -> None:
    died = EngineCrashedError("the core died")
    error = load_error("a:1", died, ChildFailure("ValueError", "head_dim=16 is not supported"))
    assert isinstance(error, InvalidInputError)
    assert "head_dim=16" in error.message


def test_a_quantization_that_vllm_dropped_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no longer reads squeezellm"):
        engine_arguments(Path(), "a:1", VLLMConfig(quantization="squeezellm"))


@pytest.mark.parametrize(
    ("dtype", "fast", "expected"),
    [("auto", False, "float32"), ("auto", True, None), ("bfloat16", False, None)],
)
def test_a_cpu_gets_float32_where_bfloat16_is_slow(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, fast: bool, expected: str | None
) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    config = VLLMConfig(dtype=dtype)
    arguments = cpu_arguments(config, fast_bfloat16=fast, free_bytes=2**30)
    assert arguments.get("dtype") == expected
    assert arguments["enforce_eager"] is True


def test_a_cpu_gives_a_share_of_what_is_free_unless_the_operator_said_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cache_bytes(free: int) -> int | None:
        arguments = cpu_arguments(VLLMConfig(), fast_bfloat16=True, free_bytes=free)
        found: int | None = arguments.get("kv_cache_memory_bytes")
        return found

    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    assert cache_bytes(10**9) == 900_000_000
    assert cache_bytes(10**12) == 4 * 2**30
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "9")
    assert cache_bytes(10**9) is None


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactCorruptError, match=r"no config\.json"):
        check_files(tmp_path, "a:1")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArtifactCorruptError, match=r"no \*\.safetensors"):
        check_files(tmp_path, "a:1")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InvalidInputError, match="pickled weights only"):
        check_files(tmp_path, "a:1")
    (tmp_path / "model-1.safetensors").touch()
    check_files(tmp_path, "a:1")


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": 3}'])
def test_an_index_that_is_none_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-1.safetensors").touch()
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ArtifactCorruptError, match=r"index\.json"):
        check_files(tmp_path, "a:1")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-1.safetensors").touch()
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(ArtifactCorruptError, match=r"not complete: no model-2\.safetensors"):
        check_files(tmp_path, "a:1")
    (tmp_path / "model-2.safetensors").touch()
    check_files(tmp_path, "a:1")


def words(resumed: list[int] | None = None, **parameters: Any) -> dict[str, Any]:
    return sampling_arguments(
        SamplingParameters(**parameters), max_tokens=20, end_tokens=[2], resumed=resumed or []
    )


def test_parameters_are_carried_over() -> None:
    got = words(temperature=0.5, top_p=0.7, top_k=-1, min_p=0.1, seed=4, presence_penalty=1)
    expected = {"temperature": 0.5, "top_p": 0.7, "top_k": 0, "min_p": 0.1, "seed": 4}
    assert expected.items() <= got.items()
    assert got["stop_token_ids"] == [2]
    assert got["max_tokens"] == 20
    assert "logit_bias" not in got


def test_min_tokens_never_exceed_what_is_left() -> None:
    assert words(min_tokens=50)["min_tokens"] == 20
    assert words([7] * 8, min_tokens=10)["min_tokens"] == 2
    assert words([7] * 12, min_tokens=10)["min_tokens"] == 0
    endless = sampling_arguments(
        SamplingParameters(min_tokens=5, ignore_eos=True), max_tokens=20, end_tokens=[]
    )
    assert endless["min_tokens"] == 0


def test_a_resumed_answer_keeps_its_penalties_and_gets_a_seed_of_its_own() -> None:
    got = words([7, 7, 9], frequency_penalty=0.5, presence_penalty=1, seed=2**63 - 1)
    assert got["logit_bias"] == {7: -2.0, 9: -1.5}
    assert got["max_tokens"] == 17
    assert 0 <= got["seed"] < 2**63
    assert got["seed"] != words([7, 7], seed=2**63 - 1)["seed"]
    assert words([7])["seed"] is None


@pytest.mark.parametrize(
    ("told", "kind", "said"),
    [
        (("OutOfMemoryError", "CUDA out of memory. Tried…"), OutOfMemoryError, "into memory"),
        (
            ("RuntimeError", "[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            OutOfMemoryError,
            "into memory",
        ),
        (
            ("ValueError", "No available memory for the cache blocks."),
            InsufficientResourcesError,
            "not fit this worker",
        ),
        (("SafetensorError", "Error while deserializing"), ArtifactCorruptError, "be read"),
        (
            ("ValueError", "Following weights were not initialized from checkpoint: {'a'}"),
            ArtifactCorruptError,
            "be read",
        ),
        (
            ("ValueError", "… set `trust_remote_code=True`"),
            InvalidInputError,
            "NEURON_ALLOW_REMOTE_CODE",
        ),
        (("ModuleNotFoundError", "No module named 'ray'"), RuntimeUnavailableError, "'ray'"),
        (("ValueError", "max_num_seqs is odd"), InvalidInputError, "max_num_seqs is odd"),
        (("ZeroDivisionError", "oh"), NeuronError, "ZeroDivisionError: oh"),
    ],
)
def test_a_failed_load_says_whose_fault_it_is(
    told: tuple[str, str], kind: type[NeuronError], said: str
) -> None:
    raised = RuntimeError("Engine core initialization failed.")
    error = load_error("a:1", raised, ChildFailure(*told))
    assert type(error) is kind
    assert said in error.message
    assert "\n" not in error.message


def test_what_pydantic_says_is_cut_to_its_reason() -> None:
    text = (
        "1 validation error for SchedulerConfig\n"
        "  Value error, max_num_batched_tokens (16) is too small. [type=value_error, input_…]\n"
        "    For further information visit …"
    )
    error = load_error("a:1", RuntimeError(), ChildFailure("ValidationError", text))
    assert error.message.endswith("runtime_config: max_num_batched_tokens (16) is too small.")


def test_long_advice_is_cut_at_a_sentence() -> None:
    told = ChildFailure("ValueError", "Too long. " + "Set this and that. " * 80)
    message = load_error("a:1", RuntimeError(), told).message
    assert len(message) < 500
    assert message.endswith("that.")


def test_a_death_tells_its_cause() -> None:
    assert "without a word" in core_death("a:1", None)
    assert "out of memory: CUDA" in core_death(
        "a:1", ChildFailure("OutOfMemoryError", "CUDA out of memory")
    )
    assert "died: ValueError: no" in core_death("a:1", ChildFailure("ValueError", "no"))
