"""The client: one memory service and its buffers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from client import _listing, _transfer
from client._address import buffer_path, path_of
from client._key import known_key
from client._limits import Retries, Timeout
from client._params import present, query_string
from client._session import Session
from client._transport import Transport
from client.buffer import Buffer
from memory_format.api.answers import BufferInfo, BufferList, ServiceInfo
from memory_format.api.runs import RunInfo, RunList, RunReport
from memory_format.api.terms import EvictionPolicy


class MemoryClient:
    """A connection to one memory service. Threads may share it, and so may forked processes: each opens its own
    connections.

    No request is made before the first call, which also checks that client and service speak the same
    version.

    Args:
        url: ``http://host:port``, or ``host:port`` for the same; ``unix:///path`` of the service's socket. Several
            are replicas of one service, in a list or with commas between: one that does not answer is left alone for
            ten seconds, and what may be sent twice goes to the next.
        key: that the service has made for this user (``memory-service keys make``); None = what the environment's
            ``EXEMPLAR_MEMORY_KEY`` says, if anything. A pickle of the client, for worker processes, holds it.
        timeout: seconds to wait; a number stands for :attr:`Timeout.read`.
        retries: how often safe requests are repeated.
        transport: an ``httpx`` transport in place of the network.

    Raises:
        ValueError: the address or a number makes no sense.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        key: str | None = None,
        timeout: Timeout | float | None = None,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if timeout is None:
            timeout = Timeout()
        elif not isinstance(timeout, Timeout):
            timeout = Timeout(read=timeout)
            timeout = replace(timeout, total=max(timeout.total, timeout.read))
        if not (retries is None or isinstance(retries, Retries)):
            raise ValueError(f"retries must be Retries(tries=...), got {retries!r:.100}")
        key = known_key(key)
        retries = retries or Retries()
        self.session = Session(Transport(url, timeout=timeout, retries=retries, key=key, transport=transport))
        """What asks. For the modules of this package."""
        self.url = self.session.transport.url

    def __enter__(self) -> MemoryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"MemoryClient({self.url!r})"

    def clone(self) -> MemoryClient:
        """Another client of the same service and settings, with connections of its own."""
        other = _rebuild(*self._settings())
        other.session.know(self.session)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        # Connections stay behind: a worker process opens its own.
        return _rebuild, self._settings()

    def close(self) -> None:
        """Close the connections; calls in other threads end with an error."""
        self.session.close()

    def stop(self) -> None:
        """Make calls in other threads end with an error, refuse new ones; :meth:`close` must follow."""
        self.session.stop()

    def info(self) -> ServiceInfo:
        """Name and versions of the service."""
        return self.session.value(ServiceInfo, "GET", "/v1")

    def health(self) -> bool:
        """Whether the service is up and can use its store; False where it says no.

        Raises:
            ServiceError: nobody answers.
        """
        response = self.session.transport.request("GET", "/readyz", safe=False, accept_status=(503,))
        return response.status_code == 200

    def create_buffer(
        self,
        name: str,
        *,
        budget_bytes: int | None = None,
        full_samples_per_class: int | None = None,
        full_sample_bytes: int | None = None,
        num_classes: int | None = None,
        max_budget_bytes: int | None = None,
        disk_limit_bytes: int | None = None,
        eviction: EvictionPolicy = "class_balanced",
        retain_snapshots: int | None = None,
        learner_floor: float | None = None,
        description: str = "",
        patch_px: int | None = None,
        vocabulary: str | None = None,
        vocabulary_name: str = "",
        owner: str = "",
    ) -> Buffer:
        """Make a buffer; nothing happens where it exists with the same settings.

        Args:
            budget_bytes: the most that its records' charges sum to; or, instead of it:
            full_samples_per_class, full_sample_bytes: so many full samples a class, of so many bytes each.
            num_classes: of so many classes; None = of those seen so far, so that the budget grows.
            max_budget_bytes: where it grows, to no more than that; None = 1,000 classes' worth.
            disk_limit_bytes: the most that everything kept for it takes on the service's disk, snapshots
                included; None = 1.5 times the budget, and at least 256 KiB over it.
            eviction: who leaves when the budget is full. ``class_balanced``: the worst ranked of the classes
                over their share; ``lowest_score``; ``fifo``: the oldest; ``reservoir``: drawn, so that what
                stays is a fair sample of all that was offered; ``reject`` refuses what does not fit.
            retain_snapshots: keep the newest so many; None = all.
            learner_floor: what of the budget each learner keeps, as far as it has so much: a share, up to 1; None =
                nothing.
            patch_px: side of its records' patches; None = that of the first that is pushed.
            vocabulary: of its token ids (:func:`memory_format.vocabulary_fingerprint`); None = that which the first
                push with texts says.
            vocabulary_name: what people call it.
            owner: id of the run that it belongs to, 1..64 of A-Z a-z 0-9 . _ -; empty = it is shared.

        Raises:
            ConflictError: it exists with other settings.
            FormatError: the name or the budget is not a usable one.
        """
        body = present(
            {
                "budget_bytes": budget_bytes,
                "full_samples_per_class": full_samples_per_class,
                "full_sample_bytes": full_sample_bytes,
                "num_classes": num_classes,
                "max_budget_bytes": max_budget_bytes,
                "disk_limit_bytes": disk_limit_bytes,
                "eviction": eviction,
                "retain_snapshots": retain_snapshots,
                "learner_floor": learner_floor,
                "description": description,
                "patch_px": patch_px,
                "vocabulary": vocabulary,
                "vocabulary_name": vocabulary_name or None,
                "owner": owner or None,
            }
        )
        self.session.request("PUT", buffer_path(name), json=body)
        return Buffer(self, name)

    def buffer(self, name: str) -> Buffer:
        """An existing buffer.

        Raises:
            NotFoundError: there is none of that name.
        """
        buffer = Buffer(self, name)
        buffer.info()
        return buffer

    def buffers(self) -> list[BufferInfo]:
        """All buffers of the service."""
        return list(_listing.listed(self.session, "/v1/buffers", BufferList, lambda page: page.buffers))

    def delete_buffer(self, name: str, *, owner: str | None = None) -> None:
        """Remove a buffer and all that it holds.

        Args:
            owner: only if it belongs to this run (``info().owner``); None = whoever's it is.

        Raises:
            NotFoundError: there is none of that name.
            ConflictError: ``other_owner``.
        """
        self.session.delete(buffer_path(name), params=query_string({"owner": owner}))

    def put_run(self, run_id: str, report: RunReport) -> RunInfo:
        """Keep the report of a run on the service, in the place of an earlier one.

        Raises:
            FormatError: the id is no name (1..63 of ``a-z 0-9 . _ -``); ``batch_too_large``.
            ForbiddenError: the key is not for a buffer that it names, or an earlier one came with another key.
            BudgetError: ``disk_limit_exceeded``: the service keeps no more reports.
        """
        return self.session.value(
            RunInfo, "PUT", path_of("/v1/runs", run_id), json=report.model_dump(exclude_unset=True)
        )

    def runs(self) -> list[RunInfo]:
        """All runs whose reports the service keeps, newest first."""
        return list(_listing.listed(self.session, "/v1/runs", RunList, lambda page: page.runs))

    def delete_run(self, run_id: str) -> None:
        """Delete the report of a run; its buffers stay.

        Raises:
            NotFoundError: ``unknown_run``.
            ForbiddenError: it came with another key.
        """
        self.session.delete(path_of("/v1/runs", run_id))

    def import_buffer(self, name: str, path: str | os.PathLike[str], *, progress: bool = False) -> Buffer:
        """Make a buffer of a file that :meth:`Buffer.export` wrote.

        A table is taken from whatever has read and written it again, as long as it kept the schema's metadata, which
        has the buffer's settings. Records of those that lost it can be pushed: :func:`memory_format.read_records`.
        It goes to the service as an Arrow stream, which is made in a temporary file.

        The file is sent piece by piece. After a broken connection it is not sent again, as nobody knows then
        whether the buffer was made.

        Args:
            progress: show a bar; needs ``tqdm``.

        Raises:
            ConflictError: there is a buffer of that name.
            FormatError: ``invalid_export``: the file is not such a one.
            OSError: it cannot be read.
        """
        _transfer.send(self.session, name, Path(path), progress=progress)
        return Buffer(self, name)

    def _settings(self) -> tuple[tuple[str, ...], str, Timeout, Retries, httpx.BaseTransport | None]:
        transport = self.session.transport
        # Without a key, one that the environment has got meanwhile is not meant either.
        addresses = transport.addresses
        return addresses.urls, transport.key or "", transport.timeout, transport.retries, addresses.injected


def _rebuild(
    url: Sequence[str], key: str, timeout: Timeout, retries: Retries, transport: httpx.BaseTransport | None
) -> MemoryClient:
    return MemoryClient(url, key=key, timeout=timeout, retries=retries, transport=transport)
