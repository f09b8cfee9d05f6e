"""The spec's sequential client: minio-py's fget_object, one file after another.

`ENDPOINT FILES.json FOLDER`; runs in the peers' environment and knows nothing of this project.
"""

# mypy: ignore-errors
# What it imports is installed in the peers' environment only.
from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from minio import Minio


def main() -> None:
    """Download, and print as JSON how long it took."""
    endpoint, listed, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    client = Minio(
        endpoint=endpoint.removeprefix("http://"),
        access_key=sys.argv[4],
        secret_key=sys.argv[5],
        secure=False,
    )
    files = json.loads(listed.read_text())
    began = time.monotonic()
    for file in files:
        name = file["key"].rpartition("/")[2]
        path = str(folder / name)
        client.fget_object(bucket_name="bench", object_name=file["key"], file_path=path)
    print(json.dumps({"seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
