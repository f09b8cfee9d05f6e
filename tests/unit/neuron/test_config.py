"""What the operator may say, and what is refused with one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from neuron.config import ChangeableSettings, Settings, load_settings, own_ip_address
from neuron.errors import ConfigurationError
from neuron.models.runtime import RuntimeType

COMPOSE_FILE = {
    "NEURON_CORTEX_GRPC_URL": "cortex:9090",
    "NEURON_GENOME_HTTP_URL": "http://genome:8081",
    "NEURON_MINIO_ENDPOINT": "engram:9000",
    "NEURON_MINIO_ACCESS_KEY": "root",
    "NEURON_MINIO_SECRET_KEY": "very secret",
    "NEURON_SUPPORTED_RUNTIMES": "vllm",
    "NEURON_MAX_CONCURRENT_JOBS": "1",
    "NEURON_LOG_LEVEL": "INFO",
    "NEURON_WORKER_TAGS": "region=us-west,zone=a",
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in COMPOSE_FILE:
        monkeypatch.delenv(name, raising=False)


def test_the_defaults_are_those_of_the_specification() -> None:
    settings = load_settings()

    assert settings.cortex_grpc_url == "cortex:9090"
    assert settings.genome_http_url == "http://genome:8081"
    assert settings.minio_endpoint == "engram:9000"
    assert settings.supported_runtimes == ["vllm", "pytorch", "transformers"]
    assert (settings.max_concurrent_jobs, settings.max_batch_size) == (1, 32)
    assert (settings.heartbeat_interval, settings.poll_interval) == (30, 1.0)
    assert (settings.shutdown_timeout, settings.max_model_size_gb) == (300, 40)
    assert str(settings.model_cache_dir) == "/tmp/neuron/models"  # noqa: S108 - the default itself
    assert (settings.api_host, settings.api_port) == ("0.0.0.0", 8000)  # noqa: S104 - likewise
    assert not settings.allow_remote_code


def test_the_compose_files_variables_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in COMPOSE_FILE.items():
        monkeypatch.setenv(name, value)

    settings = load_settings()

    assert settings.worker_tags == {"region": "us-west", "zone": "a"}
    assert settings.supported_runtimes == [RuntimeType.VLLM]
    assert settings.minio_secret_key.get_secret_value() == "very secret"


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_MINIO_SECRET_KEY", "very secret")

    settings = load_settings()

    assert "very secret" not in json.dumps(settings.shown())
    assert "very secret" not in repr(settings)


def test_empty_variables_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_MINIO_ACCESS_KEY", "")
    monkeypatch.setenv("NEURON_MAX_CONCURRENT_JOBS", "")

    assert load_settings().max_concurrent_jobs == 1


def test_a_dotenv_file_is_read_and_may_be_shared(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("NEURON_API_PORT=8123\nMINIO_ROOT_USER=somebody\n")

    assert load_settings().api_port == 8123


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("NEURON_MAX_CONCURENT_JOBS", "4", "NEURON_MAX_CONCURRENT_JOBS"),
        ("NEURON_MINIO_ENDPOIN", "x:1", "NEURON_MINIO_ENDPOINT"),
        ("NEURON_MAX_CONCURRENT_JOBS", "none", "max_concurrent_jobs"),
        ("NEURON_MAX_CONCURRENT_JOBS", "0", "max_concurrent_jobs"),
        ("NEURON_SUPPORTED_RUNTIMES", "abacus", "abacus"),
        ("NEURON_WORKER_TAGS", "region", "region"),
        ("NEURON_MINIO_ENDPOINT", "ftp://x", "ftp"),
        ("NEURON_LOG_LEVEL", "LOUD", "log_level"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, named: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert named in caught.value.message
    assert "\n" not in caught.value.message


def test_an_unknown_name_in_dotenv_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("NEURON_API_PROT=8123\n")

    with pytest.raises(ConfigurationError, match="NEURON_API_PORT"):
        load_settings()


def test_the_constructor_takes_lists_and_refuses_unknown_names() -> None:
    assert Settings(supported_runtimes=["vllm"]).supported_runtimes == [RuntimeType.VLLM]
    with pytest.raises(ValidationError):
        Settings(api_prot=1)  # type: ignore[call-arg]  # that is the test


def test_the_own_address_is_an_address() -> None:
    assert own_ip_address().count(".") == 3


def test_only_some_settings_may_change_while_running() -> None:
    assert ChangeableSettings(max_concurrent_jobs=3).log_level is None
    with pytest.raises(ValidationError):
        ChangeableSettings.model_validate({"api_port": 1})


def test_the_outbox_is_beside_the_model_cache_unless_named() -> None:
    assert str(Settings(model_cache_dir=Path("/data/models")).outbox_folder) == "/data/outbox"
    assert str(Settings(outbox_dir=Path("/disk")).outbox_folder) == "/disk"


def test_spot_notices_are_off_and_known_providers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().spot_notices == "off"
    monkeypatch.setenv("NEURON_SPOT_NOTICES", "oracle")
    with pytest.raises(ConfigurationError, match="spot_notices"):
        load_settings()
