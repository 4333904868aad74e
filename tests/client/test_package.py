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


def test_a_batch_on_its_way_brings_no_pandas() -> None:
    """Of 43 MiB; pyarrow imports it for the shortest way to make or read a column."""
    pytest.importorskip("pandas")
    check = (
        "import sys, client\n"
        "from memory_format import decode_batch, encode_batch\n"
        "from tests.memory_service.helpers import make_exemplar\n"
        "given = [make_exemplar(rank=rank, learner_id=f'of-{rank}') for rank in range(3)]\n"
        "assert decode_batch(encode_batch(given)) == given\n"
        "print({'pandas', 'pyarrow.compute'} & set(sys.modules))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=root, timeout=60)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


@pytest.mark.parametrize("module", ["client", "memory_format"])
def test_importing_it_brings_no_torch_no_pandas_and_no_service(module: str) -> None:
    check = (
        f"import sys, {module}\n"
        "found = {'torch', 'fastapi', 'zarr', 'pandas', 'memory_service', 'learner'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", check], check=True, timeout=60)
