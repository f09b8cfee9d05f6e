"""A bucket of an S3 store as a source: presigned URLs, asked for over HTTP."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import quote, urlsplit

import obstore
from obstore.store import S3Store

from ..errors import EngramError
from ..failures import FOREIGN_ERRORS, translate
from .http_link import HttpLink
from .http_route import Route
from .limits import Limits

_SIGNATURE_SECONDS = 3600


class S3Source:
    """Signs a URL for each request, which takes microseconds: none is ever too old."""

    def __init__(self, store: S3Store, bucket: str, where: str, limits: Limits) -> None:
        self.where = where
        self.bucket = bucket
        self.limits = limits
        self._store = store
        self._is_public = str(store.config.get("skip_signature", "")).lower() == "true"
        self.route = Route(urlsplit(self.url("x")), store.client_options or {})

    def link(self) -> HttpLink:
        """Return a new link."""
        return HttpLink(self)

    def url(self, key: str) -> str:
        """Return a URL for one GET of the object now. May ask for keys; raises EngramError."""
        if self._is_public:
            return f"{self._base()}/{quote(key)}"
        try:
            return obstore.sign(self._store, "GET", key, timedelta(seconds=_SIGNATURE_SECONDS))
        except FOREIGN_ERRORS as error:
            raise translate(error, self.where, self.bucket, key) from error

    def refusal(self, key: str, status: int, body: str) -> EngramError:
        """Turn an answer into ENGRAM's own error."""
        answer = OSError(f"status code: {status} {body}")
        return translate(answer, self.where, self.bucket, key)

    def _base(self) -> str:
        config = self._store.config
        region = config.get("region") or "us-east-1"
        endpoint = config.get("endpoint") or f"https://s3.{region}.amazonaws.com"
        return f"{str(endpoint).rstrip('/')}/{self.bucket}"
