"""The keys of the servers that the benchmark starts; they guard nothing."""

ACCESS_KEY = "bench-access-key"
SECRET_KEY = "bench-secret-key"  # noqa: S105
