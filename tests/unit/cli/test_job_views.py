"""How jobs are shown to people."""

from __future__ import annotations

import pytest

from mnemos.cli.job_views import print_result


def test_an_evaluation_ends_with_its_scores(capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"rows_scored": 2, "exact_match": 0.5, "perplexity": 17.791401}
    print_result({"result": [{"result": "Paris"}], "output_metadata": {"scores": scores}})

    assert capsys.readouterr().out.splitlines()[-1] == (
        "scores: exact_match 0.5, perplexity 17.79 over 2 rows"
    )


def test_an_answer_without_scores_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"result": "Paris", "output_metadata": {}})

    assert capsys.readouterr().out == "Paris\n"
