"""The addresses of one service, where several replicas answer for it: which is asked next, and which is left alone."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

import httpx

from client._address import service_address
from client._connections import Connections
from client.errors import ProtocolError
from memory_format.api.terms import STORE_HEADER

log = logging.getLogger(__name__)

AWAY_SECONDS: Final = 10.0
"""For so long an address that broke is asked only where no other one answers."""


class Address:
    """One of them."""

    def __init__(self, url: str, injected: httpx.BaseTransport | None, key: str | None) -> None:
        address, unix_socket = service_address(url)
        self.url = str(address).rstrip("/") if unix_socket is None else url
        self.connections = Connections(address, injected, unix_socket, key)
        self.away_until = 0.0
        self.store_id = ""
        """Of the store that it has answered for."""


class Addresses:
    """All of them. Threads and forked processes may share it.

    A client begins with one by chance, so that many share out the replicas, and stays with it while it answers.

    Args:
        urls: each once, one at least.
        injected: an ``httpx`` transport in place of the network.
        key: that each request shows.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        injected: httpx.BaseTransport | None,
        key: str | None,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.all = [Address(url, injected, key) for url in urls]
        self._clock = clock
        self._current = rng.randrange(len(self.all))

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(address.url for address in self.all)

    @property
    def first(self) -> Address:
        return self.all[0]

    def in_turn(self) -> list[Address]:
        """Those to ask, one after another until one answers. Where none is known to be there, all of them."""
        now, start = self._clock(), self._current
        turn = self.all[start:] + self.all[:start]
        return [address for address in turn if address.away_until <= now] or turn

    def answered(self, address: Address) -> None:
        """It is there, and is asked first from now on."""
        address.away_until = 0.0
        self._current = self.all.index(address)

    def expect_same_store(self, address: Address, response: httpx.Response) -> None:
        """Refuse what one says that has another store than the others. Raises ``ProtocolError``."""
        address.store_id = response.headers.get(STORE_HEADER, "")
        for other in self.all if address.store_id else ():
            if other.store_id not in ("", address.store_id):
                raise ProtocolError(
                    f"{address.url} and {other.url} have different stores: several addresses are those of one "
                    "service. What the first one answered was not taken"
                )

    def lost(self, address: Address) -> None:
        """It did not answer."""
        if len(self.all) > 1:
            log.warning("%s does not answer: left alone for %g s where another address does", address.url, AWAY_SECONDS)
        address.away_until = self._clock() + AWAY_SECONDS

    # What goes for all

    @property
    def injected(self) -> httpx.BaseTransport | None:
        """What is asked in place of the network."""
        return self.first.connections.injected

    def wait(self, seconds: float) -> None:
        """As :meth:`Connections.wait`."""
        self.first.connections.wait(seconds)

    def refuse_if_stopped(self) -> None:
        """As :meth:`Connections.refuse_if_stopped`."""
        self.first.connections.refuse_if_stopped()

    def stop(self) -> None:
        """As :meth:`Connections.stop`."""
        for address in self.all:
            address.connections.stop()

    def close(self) -> None:
        """As :meth:`Connections.close`."""
        self.stop()
        for address in self.all:
            address.connections.close()
