"""The package as its users see it: its names, its document, and what importing it costs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import client
from client import Buffer, MemoryClient

DOC = (Path(__file__).parents[2] / "docs" / "client.md").read_text()


def test_the_public_names_are_the_documented_ones() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", DOC, flags=re.MULTILINE)
    assert sorted(documented) == sorted(client.__all__)
    assert all(getattr(client, name) is not None for name in client.__all__)


@pytest.mark.parametrize("kind", [MemoryClient, Buffer])
def test_every_method_is_documented(kind: type) -> None:
    (line,) = re.findall(rf"^\| `{kind.__name__}` \|(.*)$", DOC, flags=re.MULTILINE)
    listed = set(re.findall(r"`(\w+)`", line))
    assert listed == {name for name in dir(kind) if callable(getattr(kind, name)) and not name.startswith("_")}


def test_the_documented_defaults_are_the_real_ones() -> None:
    timeout, retries = client.Timeout(), client.Retries()
    assert f"`connect` {timeout.connect:g}, `read` {timeout.read:g}, `total` {timeout.total:g}" in DOC
    assert f"`tries` {retries.tries}, `first_wait` {retries.first_wait:g} s, `max_wait` {retries.max_wait:g} s" in DOC


@pytest.mark.parametrize("module", ["client", "memory_format"])
def test_importing_it_brings_no_torch_no_pandas_and_no_service(module: str) -> None:
    check = (
        f"import sys, {module}\n"
        "found = {'torch', 'fastapi', 'zarr', 'pandas', 'memory_service', 'learner'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", check], check=True, timeout=60)
