"""Records to push, and buffers of the shared service."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from client import Buffer, MemoryClient
from tests.client.samples import make_many
from tests.conftest import Service

_numbers = itertools.count()


@pytest.fixture
def memory(service: Service) -> Iterator[MemoryClient]:
    with MemoryClient(service.url) as client:
        yield client


@pytest.fixture
def buffer(memory: MemoryClient) -> Buffer:
    """An empty buffer of a megabyte."""
    return memory.create_buffer(f"test-{next(_numbers)}", budget_bytes=1_000_000)


@pytest.fixture
def filled(buffer: Buffer) -> Buffer:
    buffer.push(make_many(40))
    return buffer
