"""The worker's neighbours, each behind one class."""

import os

# Read by gRPC when it is imported: engines are spawned, never forked into, and its own remarks
# about forks would land between the log's lines.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
