"""The first step of a command: what it needs is installed, or words say how to."""

from __future__ import annotations

import importlib
import sys

INTERRUPTED = 130
"""Exit status after Ctrl-C, the shells' convention for SIGINT."""

_OURS = ("memory_format", "memory_service", "client", "learner")


def run_command(name: str, module: str, extra: str) -> int:
    """Run ``main`` of a module; returns its exit status, 2 where a library is missing, then or later, or
    :data:`INTERRUPTED`.

    Args:
        name: of the command.
        module: where its ``main`` is.
        extra: of the package, what the command needs beside the base install.
    """
    try:
        return int(importlib.import_module(module).main())
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted\n")
        return INTERRUPTED
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing in _OURS:
            raise
        sys.stderr.write(
            f"{name}: {missing} is not installed; it comes with the extra `{extra}`: in a checkout of Exemplar Memory, "
            f"pip install -e '.[{extra}]'\n"
        )
        return 2
