"""The ``learner`` command, before anything that only its own libraries can import."""

from __future__ import annotations

import sys

from learner.before_torch import prepare
from memory_format.command import run_command


def main() -> int:
    """Run the command line; returns the exit status."""
    prepare()
    return run_command("learner", "learner.cli", "learner")


if __name__ == "__main__":
    sys.exit(main())
