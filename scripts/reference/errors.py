"""Error codes, from the trees of errors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from mnemos.client.errors import MnemosError
from mnemos.cortex.errors import CortexError
from mnemos.engram.errors import EngramError
from mnemos.genome.errors import GenomeError
from neuron.errors import NeuronError

from .markdown import code, head, table

PLATFORM = Path(__file__).resolve().parents[2] / "src" / "mnemos"
_TEXT = """
A code is stable: programs may depend on it. The sentence beside it is for people and may change.
HTTP answers of CORTEX and GENOME carry `{"error": {"code", "message", "field"}}`, those below `/v1`
the body that OpenAI's clients read. The last column says whether it may help to try again; for how
a failed job is retried, see [retries and dead letters](../dead-letters.md).
"""


def page() -> str:
    """Return the page."""
    parts = [head("Error codes", _TEXT.strip())]
    for title, root in (
        ("What a job can end with", NeuronError),
        ("CORTEX", CortexError),
        ("GENOME", GenomeError),
        ("ENGRAM, and the model cache", EngramError),
        ("The Python client", MnemosError),
    ):
        rows = sorted({_row(error) for error in _tree(root)})
        parts.append(f"\n## {title}\n\n{table(('code', '', 'again?'), rows)}")
    answers = sorted({(code(word), str(status)) for status, word in _answers()})
    parts.append(f"\n## Further codes of HTTP answers\n\n{table(('code', 'status'), answers)}")
    return "".join(parts)


def _answers() -> Iterator[tuple[int, str]]:
    """The answers that are written out where they are given: ApiError(status, "code", ...)."""
    for path in sorted(PLATFORM.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name("ApiError"),
                    args=[ast.Constant(int(status)), ast.Constant(str(word)), *_],
                ):
                    yield status, word


def _tree(root: type[Exception]) -> Iterator[type[Exception]]:
    for error in root.__subclasses__():
        yield error
        yield from _tree(error)


def _row(error: type[Exception]) -> tuple[str, str, str]:
    stable = getattr(error, "default_code", None) or getattr(error, "code", "internal")
    retryable = getattr(error, "retryable", False)
    text = (error.__doc__ or "").strip().split("\n\n")[0]
    return code(str(stable)), text, "yes" if retryable is True else "no"
