"""What another Python interpreter has to offer; asked without importing any of it here."""

from __future__ import annotations

import subprocess
from functools import cache

_QUESTION = (
    "import importlib.util, sys; "
    "print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))"
)
_ANSWER_SECONDS = 20.0


@cache
def interpreter_lack(python: str, modules: tuple[str, ...]) -> str | None:
    """What keeps an interpreter from running these modules; None if it has them all.

    The interpreter is started once per question, for some 50 ms; the answer is kept.
    """
    try:
        answer = subprocess.run(  # noqa: S603 -- the operator named this interpreter
            [python, "-I", "-c", _QUESTION, *modules],
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{python} cannot be started: {error}"
    if answer.returncode != 0:
        words = answer.stderr.strip().splitlines()[-1:] or ["no words"]
        return f"{python} ended with status {answer.returncode}: {words[0]}"
    if missing := answer.stdout.split():
        return f"{python} lacks {', '.join(missing)}"
    return None
