"""Run the benchmarks named on the command line, or all: `make bench ARGS=concurrent_jobs`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

BENCHMARKS = (
    "queue",
    "worker_start",
    "concurrent_jobs",
    "cancel_latency",
    "interactive_beside_batch",
    "api_overhead",
    "transformers_batching",
    "vllm_throughput",
    "model_download",
)


def main() -> int:
    """Print every figure; return 1 when one missed its target."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME")
    parser.add_argument("--small", action="store_true", help="take less, where there is a choice")
    arguments = parser.parse_args()
    if arguments.small:
        os.environ["BENCH_SMALL"] = "1"
    missed = 0
    for name in arguments.names or BENCHMARKS:
        module = importlib.import_module(f"bench.{name}")
        print(f"{name}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
        for row in module.run():
            print(row, flush=True)
            missed += row.missed
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
