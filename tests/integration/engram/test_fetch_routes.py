"""The ways to a store: TLS with a private authority, and a proxy."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fetch_tools import BUCKET, KIB, PART, QUICK, check_arrived, fetch_one, random_bytes, wanted
from object_server import Fault, ObjectServer

from mnemos.engram.errors import StorageUnavailableError
from mnemos.engram.fetch import fetch_files
from mnemos.engram.store import ObjectStore

DATA = random_bytes(5 * PART + 17)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that trusts itself alone, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test's store")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path_factory.mktemp("tls") / "store.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[ObjectServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ObjectServer(context) as server:
        yield server


async def test_tls_by_an_authority_of_ones_own(
    tls_server: ObjectServer,
    certificate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls_server.faults.extend([Fault(cut_after=100 * KIB), Fault(hang_after=10 * KIB)])

    await fetch_one(tls_server, DATA, tmp_path)


async def test_an_unknown_authority_is_told_at_once(
    tls_server: ObjectServer, tmp_path: Path
) -> None:
    with pytest.raises(StorageUnavailableError, match="certificate that is not trusted"):
        await fetch_one(tls_server, DATA, tmp_path, connections=1)

    assert tls_server.connections == 1


async def test_a_proxy_is_asked_for_what_it_must_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ObjectServer() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//user:pass%20word@"))
        proxy.put(BUCKET, "m/a", DATA)
        file = wanted("m/a", DATA, tmp_path)
        store = ObjectStore.from_url("s3://", endpoint="http://store.invalid:9000")

        await fetch_files(store, BUCKET, [file], connections=2, limits=QUICK)

        check_arrived(file, DATA)
        for seen in proxy.seen:
            assert seen.headers["Host"] == "store.invalid:9000"
            assert seen.headers["Proxy-Authorization"] == "Basic dXNlcjpwYXNzIHdvcmQ="
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        proxy.seen.clear()
        await fetch_one(proxy, DATA, tmp_path)
        assert all("Proxy-Authorization" not in seen.headers for seen in proxy.seen)
