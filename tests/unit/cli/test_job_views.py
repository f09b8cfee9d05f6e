"""How jobs are shown to people."""

from __future__ import annotations

import pytest

from mnemos.cli.job_views import print_job, print_result
from mnemos.cli.watching import Printer


def test_an_evaluation_ends_with_its_scores(capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"rows_scored": 2, "exact_match": 0.5, "perplexity": 17.791401}
    print_result({"result": [{"result": "Paris"}], "output_metadata": {"scores": scores}})

    assert capsys.readouterr().out.splitlines()[-1] == (
        "scores: exact_match 0.5, perplexity 17.79 over 2 rows"
    )


def test_an_answer_without_scores_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"result": "Paris", "output_metadata": {}})

    assert capsys.readouterr().out == "Paris\n"


def test_a_job_names_the_digest_of_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    job = {
        "job_id": "job_1",
        "status": "completed",
        "model": {"family": "llama", "version": "7b", "runtime": "vllm"},
        "priority": 5,
        "submitted_at": "2026-01-01T00:00:00Z",
        "output_metadata": {"tokens_generated": 3, "model_digest": "sha256:abc"},
    }
    print_job(job)

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["digest", "sha256:abc"] in lines
    assert ["measured", "tokens_generated", "3"] in lines


def test_a_load_that_goes_on_is_not_a_line_for_each_percent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printer = Printer(show_tokens=False)
    for message in (
        "loading model 0 %",
        "loading model 2 %, 1 min 5 s left",
        "loading model 37 %, 41 s left",
        "starting the engine",
        "starting the engine, 5 s so far",
    ):
        printer.on_state({"status": "loading_model", "worker_id": "wrk_1", "message": message})

    assert capsys.readouterr().err.splitlines() == [
        "[loading_model on wrk_1: loading model 0 %]",
        "[loading_model on wrk_1: starting the engine]",
    ]
