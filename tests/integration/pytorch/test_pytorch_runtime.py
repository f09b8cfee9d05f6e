"""Custom models of every form, against the module itself."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_torch
import torch

from neuron.errors import (
    ArtifactCorruptError,
    InsufficientResourcesError,
    InvalidInputError,
    NeuronError,
    RuntimeUnavailableError,
)
from neuron.models.job import ChatMessage, JobInput, ResumeState
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.pytorch_runtime import PyTorchRuntime

ROWS = [[0.5, -1.0, 2.0, 0.0], [1, 2, 3, 4], [0, 0, 0, 0], [-5, 1e3, 0.25, 7]]
FORMS = ["exported", "script", "weights"]
pytestmark = pytest.mark.usefixtures("installed")


def job(*rows: Any, **parameters: Any) -> JobInput:
    inputs = [{"x": row} if isinstance(row, list) else row for row in rows]
    return JobInput(inputs=inputs, parameters=parameters)


def expected(rows: list[Any]) -> list[list[float]]:
    model = tiny_torch.seeded(tiny_torch.TinyMLP)
    with torch.inference_mode():
        logits = [model(torch.tensor([row], dtype=torch.float32))[0] for row in rows]
    return [one.tolist() for one in logits]


def close(got: Any, wanted: Any, tolerance: float = 1e-5) -> bool:
    pair = (torch.tensor(got), torch.tensor(wanted))
    return bool(torch.allclose(*pair, rtol=tolerance, atol=tolerance))


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_answers_as_its_module_alone_and_stacked(load: Any, form: str) -> None:
    runtime = await load(form, batch_size=8)
    assert runtime.is_model_loaded()
    alone = [(await runtime.execute(job(row))).result[0]["logits"] for row in ROWS]
    assert close(alone, expected(ROWS))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(runtime.execute(job(row))) for row in ROWS * 4]
    outputs = [task.result() for task in tasks]
    assert close([output.result[0]["logits"] for output in outputs], expected(ROWS) * 4)
    assert max(output.metadata["largest_batch"] for output in outputs) > 1
    assert max(output.metadata["largest_batch"] for output in outputs) <= 8


async def test_many_rows_in_one_job_keep_their_order(load: Any) -> None:
    runtime = await load("exported", batch_size=8)
    output = await runtime.execute(job(*ROWS * 5))
    assert close([row["logits"] for row in output.result], expected(ROWS * 5))
    assert output.metadata["rows"] == 20
    assert output.metadata["model"] == "tiny:exported"
    assert {"latency_ms", "prepare_ms", "queue_ms", "compute_ms"} <= set(output.metrics)


async def test_batch_size_one_stacks_nothing(load: Any) -> None:
    runtime = await load("exported")
    output = await runtime.execute(job(*ROWS))
    assert output.metadata["largest_batch"] == 1
    assert runtime.stats().steps >= len(ROWS)


async def test_base64_rows_are_the_same_rows(load: Any) -> None:
    runtime = await load("exported")
    row = {"b64": "AAAAPwAAgL8AAABAAAAAAA==", "dtype": "float32", "shape": [4]}
    output = await runtime.execute(job({"x": row}))
    assert close([output.result[0]["logits"]], expected(ROWS[:1]))


async def test_text_becomes_labels_with_scores(load: Any) -> None:
    runtime = await load("text", batch_size=4)
    single = await runtime.execute(JobInput(prompt="the cat sings"))
    told = single.result["logits"]
    assert {one["label"] for one in told} == set(tiny_torch.LABELS)
    assert [one["score"] for one in told] == sorted((one["score"] for one in told), reverse=True)
    assert math.isclose(sum(one["score"] for one in told), 1)
    texts = ["the cat sings", "loud", "a dog barks loud the the cat"]
    alone = [(await runtime.execute(JobInput(prompt=text))).result for text in texts]
    output = await runtime.execute(JobInput(inputs=texts))
    assert output.metadata["largest_batch"] == 3
    for one, other in zip(alone, output.result, strict=True):
        assert [x["label"] for x in one["logits"]] == [x["label"] for x in other["logits"]]
        assert close([x["score"] for x in one["logits"]], [x["score"] for x in other["logits"]])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (job([1, 2, 3]), r"inputs\[0\]\.x: expected float32 of shape \[4\], got shape \[3\]"),
        (job(ROWS[0], ["a"]), r"inputs\[1\]\.x: expected float32 of shape \[4\], got text"),
        (job({}), r"inputs\[0\]\.x is missing"),
        (job(7), r"inputs\[0\]: expected an object with x, or a text"),
        (job("text"), r"inputs\[0\]: tiny:exported does not read text, but x"),
        (job({"x": {"engram": "b/k"}}), "does not fetch inputs from ENGRAM"),
        (job(ROWS[0], temperature=0), "temperature is for models that generate text"),
        (JobInput(prompt="hello"), "prompt: tiny:exported does not read text"),
        (JobInput(messages=[ChatMessage(role="user", content="x")]), "cannot chat"),
        (JobInput(inputs=[{"x": ROWS[0]}], context="x"), "context"),
    ],
)
async def test_a_bad_job_is_refused_with_its_reason(
    load: Any, until: Callable[..., Any], given: JobInput, words: str
) -> None:
    runtime = await load("exported", batch_size=4)
    async with asyncio.TaskGroup() as group:
        good = group.create_task(runtime.execute(job(ROWS[0])))
        with pytest.raises(InvalidInputError, match=words):
            await runtime.execute(given)
    assert close([good.result().result[0]["logits"]], expected(ROWS[:1]))
    await until(lambda: runtime.stats().active_requests == 0)


async def test_a_text_too_long_and_one_of_nothing(load: Any) -> None:
    runtime = await load("text")
    with pytest.raises(InvalidInputError, match="has 20 tokens and tiny:text reads at most 16"):
        await runtime.execute(JobInput(prompt="cat " * 20))
    with pytest.raises(InvalidInputError, match="prompt: the text has no tokens"):
        await runtime.execute(JobInput(prompt="   "))
    with pytest.raises(InvalidInputError, match="above the maximum 49"):
        await runtime.execute(job({"input_ids": [50], "attention_mask": [1]}))


async def test_a_stream_is_the_result_as_json_in_one_piece(load: Any) -> None:
    runtime = await load("exported")
    pieces = [piece async for piece in runtime.execute_stream(job(ROWS[0]))]
    assert [json.loads(piece) for piece in pieces] == [(await runtime.execute(job(ROWS[0]))).result]
    streamed = [piece async for piece in runtime.generate(job(ROWS[0], stream=True))]
    assert [piece.text for piece in streamed] == pieces
    assert streamed[-1].output is not None


async def test_an_interrupted_job_starts_again(load: Any) -> None:
    runtime = await load("exported")
    state = ResumeState(token_ids=[], text="")
    pieces = [piece async for piece in runtime.generate(job(ROWS[0]), state)]
    assert pieces[-1].output.result == (await runtime.execute(job(ROWS[0]))).result


async def test_numbers_that_json_lacks_reach_the_result_by_name(load: Any, tmp_path: Path) -> None:
    class Logarithm(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.log()[:, :3]

    tiny_torch.write_exported(tmp_path / "tiny" / "log", Logarithm())
    runtime = await load("log")
    output = await runtime.execute(job([0, -1, 1, 1]))
    assert output.result == [{"logits": ["-Infinity", "NaN", 0.0]}]
    assert output.metadata["non_finite_values"] == 2


async def test_an_answer_too_large_is_refused(load: Any, tmp_path: Path) -> None:
    class Wide(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.repeat(1, 50_000)

    wide = {**tiny_torch.OUTPUT, "shape": [-1, 200_000]}
    signature = {**tiny_torch.SIGNATURE, "outputs": [wide]}
    tiny_torch.write_exported(tmp_path / "tiny" / "wide", Wide(), signature)
    runtime = await load("wide")
    assert len((await runtime.execute(job([0, 0, 0, 0]))).result[0]["logits"]) == 200_000
    for rows in ([ROWS[0]] * 4, [ROWS[0]] * 8, [[0.1, 0.2, 0.3, 0.123456789]] * 2):
        with pytest.raises(InvalidInputError, match="more than 3000000 bytes"):
            await runtime.execute(job(*rows, stream=True))
    assert len((await runtime.execute(job(*[ROWS[0]] * 4))).result) == 4, "it need not be streamed"
    with pytest.raises(InvalidInputError, match="more than 48000000 bytes"):
        await runtime.execute(job(*[ROWS[0]] * 150))


async def test_cancelling_frees_the_place_at_once(load: Any, until: Callable[..., Any]) -> None:
    runtime = await load("exported")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runtime.execute(job(*ROWS * 5000)))
        await until(lambda: runtime.stats().active_requests == 1)
        task.cancel()
    await until(lambda: runtime.stats().active_requests == 0, seconds=0.2)
    assert close([(await runtime.execute(job(ROWS[0]))).result[0]["logits"]], expected(ROWS[:1]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("config", [{"dtype": "bfloat16"}, {"use_amp": True}, {"num_workers": 3}])
async def test_config_is_honoured(load: Any, form: str, config: dict[str, Any]) -> None:
    runtime = await load(form, batch_size=4, **config)
    output = await runtime.execute(job(*ROWS[:3]))
    logits = [row["logits"] for row in output.result]
    assert close(logits, expected(ROWS[:3]), 0.05)
    assert close(logits, expected(ROWS[:3]), 1e-6) == ("num_workers" in config)


@pytest.mark.parametrize(
    ("form", "config", "error", "words"),
    [
        ("script", {"compile": True}, InvalidInputError, "TorchScript is compiled already"),
        ("exported", {"dtype": "float16", "use_amp": True}, InvalidInputError, "give one of them"),
        ("exported", {"device": "toaster"}, InvalidInputError, "'toaster' is not auto"),
        ("exported", {"device": "cuda:7"}, InsufficientResourcesError, "cuda:7 is not here"),
        ("exported", {"batch_size": 129}, InvalidInputError, "batch_size"),
        ("exported", {"num_workers": 65}, InvalidInputError, "num_workers"),
        ("exported", {"trust_remote_code": True}, InvalidInputError, "trust_remote_code"),
        ("exported", {"handler": "x.py"}, InvalidInputError, "handler"),
        ("nowhere", {}, InvalidInputError, r"has no signature\.json"),
    ],
)
async def test_a_config_that_cannot_be_honoured_is_refused(
    load: Any, form: str, config: dict[str, Any], error: type[NeuronError], words: str
) -> None:
    with pytest.raises(error, match=words):
        await load(form, **config)


async def test_the_operators_batch_limit_holds(cache: Path) -> None:
    runtime = PyTorchRuntime(EngineSettings(model_cache_dir=cache, max_batch_size=2))
    await runtime.load_model("tiny", "exported", {"batch_size": 8})
    output = await runtime.execute(job(*ROWS))
    await runtime.unload_model()
    assert output.metadata["largest_batch"] == 2
    assert not runtime.is_model_loaded()
    with pytest.raises(NeuronError, match="no model is loaded"):
        await runtime.execute(job(ROWS[0]))


async def test_a_model_exported_for_one_row_gets_one_row(load: Any, tmp_path: Path) -> None:
    tiny_torch.write_exported(tmp_path / "tiny" / "one", example=(torch.zeros(1, 4),), dynamic=())
    runtime = await load("one", batch_size=8)
    output = await runtime.execute(job(*ROWS))
    assert close([row["logits"] for row in output.result], expected(ROWS))
    assert output.metadata["largest_batch"] == 1


async def test_a_model_whose_rows_look_at_each_other_gets_one_row(
    load: Any, tmp_path: Path
) -> None:
    class Centred(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - x.mean(0) + x.sum())[:, :3]

    tiny_torch.write_exported(tmp_path / "tiny" / "centred", Centred())
    runtime = await load("centred", batch_size=8)
    assert (await runtime.execute(job(*ROWS))).metadata["largest_batch"] == 1


async def test_a_signature_unlike_the_model_is_refused_when_loading(
    load: Any, tmp_path: Path
) -> None:
    wrong = {**tiny_torch.SIGNATURE, "outputs": [{**tiny_torch.OUTPUT, "shape": [-1, 5]}]}
    tiny_torch.write_exported(tmp_path / "tiny" / "wrong", signature=wrong)
    with pytest.raises(
        InvalidInputError, match=r"output logits of tiny:wrong has the shape \[1, 3"
    ):
        await load("wrong")
    wrong = {**tiny_torch.SIGNATURE, "inputs": [{**tiny_torch.INPUT, "shape": [-1, 5]}]}
    tiny_torch.write_signature(tmp_path / "tiny" / "wrong", wrong)
    with pytest.raises(InvalidInputError, match="cannot be called as its signature"):
        await load("wrong")


async def test_a_class_that_is_not_installed_is_named(
    load: Any, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sys.path", [path for path in __import__("sys").path if path != str(installed)]
    )
    with pytest.raises(RuntimeUnavailableError, match="the model class tiny-mlp, which is not"):
        await load("weights")


async def test_weights_that_are_not_the_classes_are_named(load: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tiny_torch.write_weights(tmp_path / "tiny" / "odd")
    state = tiny_torch.seeded(tiny_torch.TinyMLP).state_dict()
    save_file(state | {"more": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(InvalidInputError, match="has no tensor more"):
        await load("odd")
    save_file(state | {"second.bias": torch.ones(9)}, folder / "model.safetensors")
    with pytest.raises(InvalidInputError, match=r"second.bias of tiny:odd has the shape \[9\]"):
        await load("odd")
    del state["second.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ArtifactCorruptError, match=r"lack the tensor second\.bias"):
        await load("odd")
    (folder / "model.safetensors").write_bytes(b"\x08")
    with pytest.raises(ArtifactCorruptError, match="the files of tiny:odd cannot be read"):
        await load("odd")


async def test_a_pickle_is_the_operators_decision(load: Any, tmp_path: Path) -> None:
    folder = tiny_torch.write_weights(tmp_path / "tiny" / "pickle")
    (folder / "model.safetensors").unlink()
    torch.save(tiny_torch.seeded(tiny_torch.TinyMLP).state_dict(), folder / "model.pt")
    with pytest.raises(InvalidInputError, match=r"model\.pt.*NEURON_ALLOW_PICKLE=true"):
        await load("pickle")
    runtime = await load("pickle", allow="pickle")
    assert close([(await runtime.execute(job(ROWS[1]))).result[0]["logits"]], expected(ROWS[1:2]))


async def test_script_with_files_on_its_mind_never_runs(load: Any, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    tiny_torch.write_script(tmp_path / "tiny" / "writer", tiny_torch.FileWriter(str(proof)))
    with pytest.raises(InvalidInputError, match="NEURON_ALLOW_REMOTE_CODE"):
        await load("writer")
    assert not proof.exists()
    await load("writer", allow="remote_code")
    assert proof.exists()


async def test_two_models_in_one_folder_are_refused(load: Any, tmp_path: Path) -> None:
    folder = tiny_torch.write_exported(tmp_path / "tiny" / "both")
    tiny_torch.write_script(folder)
    with pytest.raises(InvalidInputError, match="several models"):
        await load("both")
