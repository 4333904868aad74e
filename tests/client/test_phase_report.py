"""What is said of a buffer after a phase: items and bytes."""

from __future__ import annotations

import logging

import pytest

from client import Buffer
from client.phase_report import phase_report
from tests.client.samples import make_many


def test_items_and_bytes_are_said(buffer: Buffer, caplog: pytest.LogCaptureFixture) -> None:
    lines: list[str] = []
    phase_report(buffer, 0, report=lines.append)
    pushed = buffer.push(make_many(12))
    found = phase_report(buffer, 1, pushed, lines.append)
    assert lines[0] == "phase 0: 0 exemplars of 0 classes, 0 of 1,000,000 bytes"
    used = buffer.info().bytes_used
    assert lines[1] == (
        f"phase 1: 12 stored, 0 evicted; 12 exemplars of 4 classes, {used:,} of 1,000,000 bytes, {used / 12:,.0f} each"
    )
    assert (found.exemplars, found.bytes_used) == (12, used)
    with caplog.at_level(logging.INFO, "client"):
        assert phase_report(buffer, 1, pushed) == found
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("client.phase_report", lines[1])]
