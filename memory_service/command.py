"""The ``memory-service`` command, before anything that only its own libraries can import."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line; returns the exit status."""
    if sys.platform == "linux":
        # Arrow asks as it is loaded; its streams do not heed what ``serve`` says later. There would be two allocators
        # then, the other's first pages being 4 MiB.
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")
    from memory_format.command import run_command

    return run_command("memory-service", "memory_service.cli", "service")
