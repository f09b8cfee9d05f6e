"""Which URLs name a storage; no server is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mnemos.engram.errors import InvalidKeyError
from mnemos.engram.store import MODELS_BUCKET, ObjectStore


@pytest.mark.parametrize(
    "url",
    [
        "", "/models", "file://host/x", "file:x", "file:///a#b", "file:///a?b", "http://x",
        "s3://bucket/prefix", "s3://b", "s3://UPPER", "s3://x?y=1", "gs://bucket",
    ],
)  # fmt: skip
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidKeyError):
        ObjectStore.from_url(url)


@pytest.mark.parametrize("endpoint", ["ftp://x", "http://", "http://user:secret@host:9000"])
def test_other_endpoints_are_refused(endpoint: str) -> None:
    with pytest.raises(InvalidKeyError):
        ObjectStore.from_url("s3://", endpoint=endpoint)


def test_the_bucket_of_the_url_is_the_models_bucket(tmp_path: Path) -> None:
    assert ObjectStore.from_url("s3://").models_bucket == MODELS_BUCKET
    assert ObjectStore.from_url("s3://ours").models_bucket == "ours"
    assert ObjectStore.from_url(tmp_path.as_uri()).models_bucket == MODELS_BUCKET


@pytest.mark.parametrize(
    ("endpoint", "secure", "shown"),
    [
        ("host:9000", False, "http://host:9000"),
        ("host:9000", True, "https://host:9000"),
        ("https://host/", False, "https://host"),
    ],
)
def test_secure_chooses_the_scheme(endpoint: str, secure: bool, shown: str) -> None:
    secret = SecretStr("do-not-show")
    store = ObjectStore.from_url(
        "s3://", endpoint=endpoint, access_key="key", secret_key=secret, secure=secure
    )
    assert store.where == f"The object storage at {shown}"
    assert "do-not-show" not in repr(vars(store)) + repr(vars(store._backend))


async def test_a_folder_with_a_strange_name_is_that_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a b#c%20d"
    store = ObjectStore.from_url(folder.as_uri())
    await store.ensure_bucket("bucket")
    await store.put_bytes("bucket", "k", b"x")
    assert (folder / "bucket" / "k").is_file()


@pytest.mark.parametrize("keys", [{"access_key": "a"}, {"secret_key": SecretStr("b")}])
def test_half_a_pair_of_keys_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(InvalidKeyError, match="the access key and the secret key"):
        ObjectStore.from_url("s3://", endpoint="host:1", **keys)
