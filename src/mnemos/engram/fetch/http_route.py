"""How to connect to a URL: TLS, certificates and proxies, as the store is configured."""

from __future__ import annotations

import base64
import ssl
import urllib.request
from collections.abc import Mapping
from functools import cached_property
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import SplitResult, unquote, urlsplit


class Route:
    """Makes connections to one origin. `options` are obstore's client options.

    Honoured are `proxy_url`, or else the usual variables (HTTPS_PROXY, NO_PROXY, …);
    `root_certificate` beside this machine's own (SSL_CERT_FILE counts too); and
    `allow_invalid_certificates`.
    """

    def __init__(self, origin: SplitResult, options: Mapping[str, object]) -> None:
        self._origin = origin
        self._options = options
        self.is_plain = origin.scheme == "http"

    def connect(self, timeout_seconds: float) -> HTTPConnection:
        """Return an open connection. Blocks; raises OSError."""
        connection = self._connection(timeout_seconds)
        connection.connect()
        return connection

    def request_target(self, url: SplitResult) -> str:
        """What to ask for: a path, or the whole URL where a proxy must know it."""
        path = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
        by_proxy = self._proxy is not None and self.is_plain
        return f"{url.scheme}://{url.netloc}{path}" if by_proxy else path

    @property
    def headers(self) -> Mapping[str, str]:
        """What every request carries."""
        proxy = self._proxy
        if proxy is None or not self.is_plain:
            return {}
        return _authorization(proxy)

    def _connection(self, timeout_seconds: float) -> HTTPConnection:
        proxy, origin = self._proxy, self._origin
        host, port = origin.hostname or "", origin.port
        if proxy is None:
            if self.is_plain:
                return HTTPConnection(host, port, timeout=timeout_seconds)
            return HTTPSConnection(host, port, timeout=timeout_seconds, context=self._context)
        via, via_port = proxy.hostname or "", proxy.port
        if self.is_plain:
            return HTTPConnection(via, via_port, timeout=timeout_seconds)
        tunnel = HTTPSConnection(
            via, via_port or 80, timeout=timeout_seconds, context=self._context
        )
        tunnel.set_tunnel(host, port or 443, dict(_authorization(proxy)))
        return tunnel

    @cached_property
    def _proxy(self) -> SplitResult | None:
        configured = self._options.get("proxy_url")
        if configured is None:
            if urllib.request.proxy_bypass(self._origin.hostname or ""):
                return None
            known = urllib.request.getproxies()
            configured = known.get(self._origin.scheme) or known.get("all")
        if not configured:
            return None
        text = str(configured)
        return urlsplit(text if "://" in text else f"http://{text}")

    @cached_property
    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        root = self._options.get("root_certificate")
        if root is not None:
            text = root.decode() if isinstance(root, bytes) else str(root)
            context.load_verify_locations(cadata=text)
        if str(self._options.get("allow_invalid_certificates", "")).lower() == "true":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _authorization(proxy: SplitResult) -> Mapping[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
