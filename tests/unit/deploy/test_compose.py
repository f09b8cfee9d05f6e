"""The compose file beside the programs that it configures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from compose_file import SECRET, VARIABLE, environment, text

from mnemos.cortex.settings import CortexSettings, unknown_settings
from mnemos.cortex.telemetry import CortexMetrics
from mnemos.genome.settings import GenomeSettings, unknown_names
from neuron.config import Settings, load_settings
from neuron.utils.metrics import WorkerMetrics

METRIC = re.compile(r"\b(?:neuron|genome|mnemos)_[a-z_]+")
WORKERS = ("neuron-worker", "neuron-worker-cpu")
USERS_OWN = {
    "NEURON_CORTEX_GRPC_URL": "cortex:9090",
    "NEURON_GENOME_HTTP_URL": "http://genome:8081",
    "NEURON_MINIO_ENDPOINT": "engram:9000",
    "NEURON_SUPPORTED_RUNTIMES": "vllm",
    "NEURON_MAX_CONCURRENT_JOBS": "1",
    "NEURON_LOG_LEVEL": "INFO",
    "NEURON_WORKER_TAGS": "region=us-west,zone=a",
}


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A process without settings of its own."""
    for name in list(os.environ):
        if name.startswith(("NEURON_", "CORTEX_", "GENOME_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def given(patch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        patch.setenv(name, value)


def test_cortex_takes_its_variables(
    compose: dict[str, Any], example: dict[str, str], bare: pytest.MonkeyPatch
) -> None:
    variables = environment("cortex", example)
    given(bare, variables)
    settings = CortexSettings()
    assert unknown_settings(variables) == []
    assert settings.exposed_hosts
    assert settings.admin_key is not None
    assert settings.worker_token is not None


def test_genome_takes_its_variables(
    compose: dict[str, Any], example: dict[str, str], bare: pytest.MonkeyPatch
) -> None:
    variables = environment("genome", example)
    given(bare, variables)
    GenomeSettings()
    assert unknown_names(variables) == []


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_takes_its_variables(
    compose: dict[str, Any], example: dict[str, str], bare: pytest.MonkeyPatch, worker: str
) -> None:
    variables = environment(worker, example)
    given(bare, variables)
    settings: Settings = load_settings()  # refuses names that mean nothing
    assert settings.cortex_token is not None
    assert settings.worker_tags == {"region": "us-west", "zone": "a"}


def test_the_gpu_worker_has_the_variables_of_the_specification(
    compose: dict[str, Any], example: dict[str, str]
) -> None:
    variables = environment("neuron-worker", example)
    assert {name: variables[name] for name in USERS_OWN} == USERS_OWN


def test_tokens_are_the_same_on_both_sides(
    compose: dict[str, Any], example: dict[str, str]
) -> None:
    distinct = {name: f"{name}-{SECRET}" for name, value in example.items() if not value}
    told = {name: environment(name, example | distinct) for name in compose["services"]}
    for worker in WORKERS:
        assert told[worker]["NEURON_CORTEX_TOKEN"] == told["cortex"]["CORTEX_WORKER_TOKEN"]
        assert told[worker]["NEURON_GENOME_TOKEN"] == told["genome"]["GENOME_TOKEN"]
    assert told["cortex"]["CORTEX_GENOME_TOKEN"] == told["genome"]["GENOME_TOKEN"]


def test_the_example_names_every_variable(root: Path, example: dict[str, str]) -> None:
    assert {found[1] for found in VARIABLE.finditer(text())} == set(example)


def test_whoever_is_waited_for_can_be_found_healthy(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            wanted = condition["condition"]
            if wanted == "service_healthy":
                assert "test" in services[other]["healthcheck"], f"{name} waits for {other}"
            else:
                assert wanted == "service_completed_successfully"
                assert services[other]["restart"] == "on-failure", f"{other} does not end"


def test_our_services_can_write_nowhere_but_in_volumes(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert "no-new-privileges:true" in service["security_opt"], name
        if "build" in service:
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name


def test_images_of_others_have_a_version(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        if "build" not in service:
            assert re.search(r":(v|RELEASE\.)?\d", service["image"]), service["image"]


def test_the_database_is_reached_from_the_platform_alone(compose: dict[str, Any]) -> None:
    assert compose["networks"]["mnemos-data"] == {"internal": True}
    assert compose["services"]["postgres"]["networks"] == ["mnemos-data"]
    for worker in WORKERS:
        assert compose["services"][worker]["networks"] == ["mnemos-backend"]


def test_the_dashboard_asks_for_metrics_that_are_there(root: Path) -> None:
    path = root / "deploy/compose/observability/grafana/dashboards/mnemos.json"
    asked = {
        name
        for asked_for in _expressions(json.loads(path.read_text()))
        for name in METRIC.findall(asked_for)
    }
    assert len(asked) > 10
    assert asked <= _metrics()


def _expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def _metrics() -> set[str]:
    names = set()
    for registry in (CortexMetrics().registry, WorkerMetrics().registry):
        for family in registry.collect():
            ending = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
            names |= {f"{family.name}{end}" for end in ending.get(family.type, [""])}
    return names
