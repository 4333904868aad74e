"""A replay data set as a node of ``torchdata.nodes``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torchdata.nodes import BaseNode

from client.dataset import ReplayDataset
from client.mixed import Mixed


class ReplayNode(BaseNode[Any]):  # type: ignore[misc]  # torchdata ships no types
    """The batches of a data set or of a mixed loader, as the source of a graph of nodes.

    A graph's state has that of the source: under 1 kB of the replay, and what comes after the batch that the graph gave
    last. A graph without a further reset goes on with the source's next epoch.

    Nodes that fetch ahead hold on to their source, also when nobody uses them any more: :meth:`shutdown` ends its
    threads and connections.

    Args:
        source: whose batches.
    """

    def __init__(self, source: ReplayDataset | Mixed) -> None:
        super().__init__()
        self.source = source
        self._batches: Iterator[Any] | None = None

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        """Begin the next epoch, or go on from a state."""
        super().reset(initial_state)
        self.shutdown()
        if initial_state is not None:
            self.source.load_state_dict(initial_state)
        self._batches = iter(self.source)

    def next(self) -> Any:
        """The next batch."""
        if self._batches is None:
            raise StopIteration
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        """The source's, after the batch that was given last."""
        return self.source.state_dict()

    def shutdown(self) -> None:
        """End what fetches ahead. A reset begins anew."""
        batches: Any = self._batches
        self._batches = None
        if batches is not None:
            batches.close()
