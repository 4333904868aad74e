"""The ``learner`` command, before anything that only its own libraries can import."""

from __future__ import annotations

import os
import sys

from memory_format.command import run_command


def main() -> int:
    """Run the command line; returns the exit status."""
    # Read once, when torch is loaded. Where it is not set, libgomp's threads spin for work before they sleep, whatever
    # it says is its default: on cores that others use too, what they wait for is then not being computed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run_command("learner", "learner.cli", "learner")


if __name__ == "__main__":
    sys.exit(main())
