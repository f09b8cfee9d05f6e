"""Which authorities' certificates clients believe."""

from __future__ import annotations

import os
import ssl


def certificates() -> ssl.SSLContext | bool:
    """What HTTP clients check servers with: the authorities in SSL_CERT_FILE, if it is set.

    Else True, which is the usual ones. Clients that pass by proxies pass by that variable as
    well, unless they are given this. Raises OSError for a file that is none.
    """
    path = os.environ.get("SSL_CERT_FILE")
    return ssl.create_default_context(cafile=path) if path else True
