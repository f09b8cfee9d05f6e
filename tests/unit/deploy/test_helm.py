"""The chart: what it renders is what Kubernetes and our own settings know."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import pytest
import yaml
from helm_python import Chart, HelmError
from helm_python.chart import lint

from mnemos.cortex.api.demand import demand
from mnemos.cortex.settings import CortexSettings
from mnemos.genome.settings import GenomeSettings
from neuron.config import Settings

CHART = Path(__file__).parents[3] / "deploy" / "helm" / "mnemos"
OLDEST, NEWEST = "1.30", "1.36"
NEEDED = {"existingSecret": "mnemos", "engram": {"endpoint": "https://s3.example.com"}}
EVERYTHING = {
    **NEEDED,
    "tls": {"existingSecret": "cortex-tls"},
    "ingress": {"enabled": True, "host": "mnemos.example.com", "tlsSecret": "web"},
    "serviceMonitor": {"enabled": True},
    "workers": {
        "gpu": {"tags": {"zone": "a b"}, "autoscaling": {"enabled": True, "gpuMemoryMb": 24000}},
        "cpu": {
            "image": {"tag": "0.1.0-cpu"},
            "runtimes": ["transformers", "pytorch"],
            "gpus": 0,
            "slots": 2,
            "cache": {"size": "", "budgetGb": 5},
            "shutdownTimeoutSeconds": 60,
            "autoscaling": {"enabled": True},
        },
    },
}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    with Chart.load(CHART) as chart:
        files = chart.render(values, name="demo", namespace="inference")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


@pytest.fixture(scope="module")
def everything() -> list[dict[str, Any]]:
    return rendered(EVERYTHING)


def the(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    [found] = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds = {"Deployment", "StatefulSet", "Job"}
    return [one["spec"]["template"]["spec"] for one in objects if one["kind"] in kinds]


def test_lint_has_nothing_to_say() -> None:
    report = lint(CHART, values=EVERYTHING)
    serious = [message for message in report["messages"] if message["severity"] > 1]
    assert (serious, report["errors"], report["total_charts_linted"]) == ([], [], 1)


@pytest.mark.parametrize("values", [NEEDED, EVERYTHING], ids=["least", "everything"])
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_every_object(values: dict[str, Any], version: str) -> None:
    own = [one for one in rendered(values) if ".k8s.io" in one["apiVersion"] or _is_core(one)]
    assert {"Deployment", "StatefulSet", "Job", "NetworkPolicy"} <= {one["kind"] for one in own}
    for one in own:
        kubernetes_validate.validate(one, version, strict=True)


def _is_core(one: dict[str, Any]) -> bool:
    return one["apiVersion"] in {"v1", "apps/v1", "batch/v1", "policy/v1"}


def test_every_variable_is_a_setting(everything: list[dict[str, Any]]) -> None:
    known = {
        f"{prefix}{name.upper()}"
        for prefix, settings in (
            ("CORTEX_", CortexSettings),
            ("GENOME_", GenomeSettings),
            ("NEURON_", Settings),
        )
        for name in settings.model_fields
    }
    variables = {
        variable["name"]
        for pod in pods(everything)
        for container in pod["containers"]
        for variable in container["env"]
    }
    assert variables - known == {"HOME", "POD_NAME"}
    assert {"CORTEX_ADMIN_KEY", "GENOME_TOKEN", "NEURON_CORTEX_TOKEN"} <= variables


def test_no_container_may_write_its_files_or_be_root(everything: list[dict[str, Any]]) -> None:
    for pod in pods(everything):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"]["drop"] == ["ALL"]


def test_a_pool_is_the_defaults_and_its_differences(everything: list[dict[str, Any]]) -> None:
    gpu = the(everything, "StatefulSet", "demo-mnemos-neuron-gpu")["spec"]
    cpu = the(everything, "StatefulSet", "demo-mnemos-neuron-cpu")["spec"]
    [gpu_container] = gpu["template"]["spec"]["containers"]
    [cpu_container] = cpu["template"]["spec"]["containers"]
    assert gpu_container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in cpu_container["resources"]["limits"]
    assert gpu_container["image"] == "mnemos/neuron:0.1.0"
    assert cpu_container["image"] == "mnemos/neuron:0.1.0-cpu"
    assert gpu["template"]["spec"]["terminationGracePeriodSeconds"] == 330
    assert cpu["template"]["spec"]["terminationGracePeriodSeconds"] == 90
    assert [one["metadata"]["name"] for one in gpu["volumeClaimTemplates"]] == ["data"]
    assert "volumeClaimTemplates" not in cpu
    variables = {one["name"]: one.get("value") for one in cpu_container["env"]}
    assert variables["NEURON_SUPPORTED_RUNTIMES"] == "transformers,pytorch"
    assert (variables["NEURON_MINIO_ENDPOINT"], variables["NEURON_MINIO_SECURE"]) == (
        "s3.example.com",
        "true",
    )


def test_keda_asks_what_cortex_answers(everything: list[dict[str, Any]]) -> None:
    [trigger] = the(everything, "ScaledObject", "demo-mnemos-neuron-gpu")["spec"]["triggers"]
    url = urlsplit(trigger["metadata"]["url"])
    assert (url.netloc, url.path) == ("demo-mnemos-cortex.inference:8080", "/api/v1/demand")
    asked = parse_qs(url.query, keep_blank_values=True)
    assert asked == {
        "slots": ["8"],
        "runtime": ["vllm"],
        "tag": ["zone=a b"],
        "gpu_memory_mb": ["24000"],
    }
    assert set(asked) <= set(inspect.signature(demand).parameters)
    [untagged] = the(everything, "ScaledObject", "demo-mnemos-neuron-cpu")["spec"]["triggers"]
    asked = parse_qs(urlsplit(untagged["metadata"]["url"]).query, keep_blank_values=True)
    assert (asked["tag"], asked["runtime"]) == ([""], ["transformers", "pytorch"])
    for pool in ("gpu", "cpu"):
        assert (
            "replicas" not in the(everything, "StatefulSet", f"demo-mnemos-neuron-{pool}")["spec"]
        )


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"engram": NEEDED["engram"]}, "existingSecret"),
        ({"existingSecret": "mnemos"}, "engram.endpoint"),
        ({**NEEDED, "worker": {}}, "worker"),
        ({**NEEDED, "workers": {"gpu": {"slots": 0}}}, "slots"),
        ({**NEEDED, "workers": {"GPU": {}}}, "GPU"),
        ({**NEEDED, "workers": {"gpu": {"runtimes": ["cuda"]}}}, "runtimes"),
        ({**NEEDED, "ingress": {"enabled": True}}, "ingress.host"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(values: dict[str, Any], word: str) -> None:
    with pytest.raises(HelmError, match=word):
        rendered(values)
