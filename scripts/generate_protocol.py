"""Generate `src/mnemos/protocol` from `proto/`; with --check, only say whether it is current."""

from __future__ import annotations

import argparse
import filecmp
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO_ROOT = ROOT / "proto"
OUTPUT_ROOT = ROOT / "src"


def generate(output_root: Path) -> list[Path]:
    """Write stubs for every .proto under `output_root`; return their paths relative to it."""
    sources = sorted(str(path) for path in PROTO_ROOT.rglob("*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    plugins = Path(sys.executable).parent
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTO_ROOT}",
            f"--proto_path={well_known}",
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            f"--python_out={output_root}",
            f"--grpc_python_out={output_root}",
            f"--mypy_out=quiet:{output_root}",
            f"--mypy_grpc_out=quiet:{output_root}",
            *sources,
        ]
    )
    if status != 0:
        raise SystemExit(f"protoc failed with status {status}")
    return generated_files(output_root)


def generated_files(root: Path) -> list[Path]:
    """Return the generated modules and stubs under `root`, relative to it."""
    found = (root / "mnemos" / "protocol").rglob("*_pb2*")
    return sorted(path.relative_to(root) for path in found if path.suffix in {".py", ".pyi"})


def drifted() -> list[Path]:
    """Return the generated files that differ from what `proto/` gives now."""
    with tempfile.TemporaryDirectory() as folder:
        fresh_root = Path(folder)
        fresh = set(generate(fresh_root))
        present = set(generated_files(OUTPUT_ROOT))
        changed = {
            path
            for path in fresh & present
            if not filecmp.cmp(fresh_root / path, OUTPUT_ROOT / path, shallow=False)
        }
        return sorted((fresh ^ present) | changed)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 on drift")
    if not parser.parse_args().check:
        generate(OUTPUT_ROOT)
        return 0
    stale = drifted()
    for path in stale:
        sys.stderr.write(f"src/{path} is not what proto/ generates: run 'make protocol'\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
