"""`python -m mnemos.healthy URL`: 0 if it answers 200, else 1 and why; for containers' checks.

Over https the certificate is not checked: the question is whether it lives, not who it is.
"""

from __future__ import annotations

import ssl
import sys
import urllib.error
import urllib.request

EX_USAGE = 64
_SECONDS = 4.0


def main() -> int:
    """Ask; return the exit status."""
    match sys.argv[1:]:
        case [url] if url.startswith(("http://", "https://")):
            return _asked(url)
    return _fail("takes one http(s) URL", EX_USAGE)


def _asked(url: str) -> int:
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),  # what is asked is this machine's own
        urllib.request.HTTPSHandler(context=trusting),
    )
    try:
        with opener.open(url, timeout=_SECONDS) as answer:
            status: int = answer.status
    except urllib.error.HTTPError as error:
        return _fail(f"{url} answers {error.code}", 1)
    except OSError as error:
        return _fail(f"{url} does not answer: {getattr(error, 'reason', None) or error}", 1)
    return 0 if status == 200 else _fail(f"{url} answers {status}", 1)


def _fail(sentence: str, status: int) -> int:
    sys.stderr.write(f"healthy: {sentence}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
