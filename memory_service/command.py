"""The ``memory-service`` command, before anything that only its own libraries can import."""

from __future__ import annotations

from memory_format.command import run_command


def main() -> int:
    """Run the command line; returns the exit status."""
    return run_command("memory-service", "memory_service.cli", "service")
